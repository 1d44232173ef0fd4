//! The checked-in messages are those of `edgeway.proto`. `UPDATE_PROTO=1` writes them instead.

#![allow(missing_docs)]

use std::{fs, path::Path};

#[test]
fn generated_types_match_the_proto_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile([root.join("edgeway.proto")], [root]).expect("edgeway.proto compiles");
    let out = tempfile::tempdir().expect("a temporary directory");
    prost_build::Config::new()
        .bytes(["."])
        .btree_map(["."])
        .out_dir(out.path())
        .compile_fds(files)
        .expect("types are generated");
    let fresh = fs::read_to_string(out.path().join("edgeway.v1.rs")).expect("the generated file");
    let checked_in = root.join("src/gen/edgeway.v1.rs");
    if std::env::var_os("UPDATE_PROTO").is_some() {
        fs::write(&checked_in, &fresh).expect("the checked-in file is writable");
    }
    let kept = fs::read_to_string(&checked_in).unwrap_or_default();
    assert!(kept == fresh, "src/gen is out of date: run `make proto`");
}
