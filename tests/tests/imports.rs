//! Who may import whom, over `cargo metadata` and, where the rule is about a module, over the sources.
//!
//! A crate that is not in the table fails the test, so a new one has to say where it stands.

#![allow(missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// What a crate may import of ours in any build: itself, its tests, its build script.
fn allowed(name: &str) -> Option<Vec<&'static str>> {
    const PLUGINS: [&str; 4] =
        ["edgeway-rest", "edgeway-echo", "edgeway-http-service", "edgeway-tcp-service"];
    const BASE: [&str; 4] = ["edgeway-proto", "edgeway-tunnel", "edgeway-host", "edgeway-plugin"];
    Some(match name {
        "edgeway-proto" => vec![],
        "edgeway-tunnel" | "edgeway-host" | "edgeway-plugin" => vec!["edgeway-proto"],
        name if PLUGINS.contains(&name) => vec!["edgeway-plugin"],
        "cloud-hub" | "edge-agent" => [&BASE[..], &PLUGINS].concat(),
        "edgeway" => [&BASE[..3], &["cloud-hub", "edge-agent"]].concat(),
        "edgeway-tests" => [&BASE[..], &PLUGINS, &["cloud-hub", "edge-agent", "edgeway"]].concat(),
        _ => return None,
    })
}

fn metadata() -> Metadata {
    // Only this platform: the crates of others may not have been downloaded.
    let rustc = std::process::Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let text = String::from_utf8(rustc.stdout).expect("rustc speaks UTF-8");
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(["--filter-platform".into(), host.to_owned()])
        .exec()
        .expect("cargo metadata")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace").to_owned()
}

fn ours(metadata: &Metadata) -> Vec<&Package> {
    let ours = metadata.workspace_packages();
    assert!(ours.len() >= 12, "the workspace has lost crates");
    ours
}

/// Names of all crates that `root` is built from, dev-dependencies left out.
fn built_from(metadata: &Metadata, root: &str) -> BTreeSet<String> {
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let name = |id| metadata[id].name.to_string();
    let start =
        &ours(metadata).into_iter().find(|package| *package.name == root).expect("a crate of ours").id;
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        for dependency in &nodes[id].deps {
            let normal = dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal);
            if normal && seen.insert(name(&dependency.pkg)) {
                open.push(&dependency.pkg);
            }
        }
    }
    assert!(!seen.is_empty(), "{root} is built from nothing");
    seen
}

/// The Rust files under a folder or file of the workspace, with their text; none where there is no such folder or file.
fn sources(of: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(of)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a source file");
            found.push((path, text));
        }
    }
    found
}

/// Whether a line of code names `krate`; comments may.
fn names(text: &str, krate: &str) -> bool {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == krate))
}

#[test]
fn every_crate_imports_only_what_the_design_allows() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let known: BTreeSet<_> = ours.iter().map(|package| package.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &ours {
        let Some(allowed) = allowed(&package.name) else {
            wrong.push(format!("{} has no line in the table of this test", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if known.contains(name) && !allowed.contains(&name) {
                wrong.push(format!("{} must not import {name}", package.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hub_and_agent_are_not_built_from_one_another() {
    let metadata = metadata();
    assert!(!built_from(&metadata, "cloud-hub").contains("edge-agent"));
    assert!(!built_from(&metadata, "edge-agent").contains("cloud-hub"));
}

#[test]
fn what_authors_build_on_brings_no_transport_and_no_config_format() {
    let metadata = metadata();
    let api = built_from(&metadata, "edgeway-plugin");
    assert!(api.contains("http"), "the walk does not reach crates of others");
    for banned in ["quinn", "quinn-proto", "rustls", "hyper", "serde_yaml", "serde_yaml_ng", "edgeway-tunnel"]
    {
        assert!(!api.contains(banned), "edgeway-plugin is built from {banned}");
    }
    let proto = built_from(&metadata, "edgeway-proto");
    for banned in ["quinn", "rustls", "tokio", "hyper", "serde_yaml_ng"] {
        assert!(!proto.contains(banned), "edgeway-proto is built from {banned}");
    }
}

#[test]
fn config_text_is_read_in_three_crates_only() {
    let metadata = metadata();
    for package in ours(&metadata) {
        let reads = package.dependencies.iter().any(|dependency| dependency.name.starts_with("serde_yaml"));
        let may = ["edgeway-host", "cloud-hub", "edge-agent"].contains(&package.name.as_str());
        assert!(may || !reads, "{} imports YAML", package.name);
    }
}

#[test]
fn routes_know_no_http_server_and_no_transport() {
    let files = [sources("cloud-hub/src/routes"), sources("cloud-hub/src/routes.rs")].concat();
    assert!(!files.is_empty(), "the routes have moved");
    for (path, text) in files {
        for banned in ["hyper", "hyper_util", "quinn", "edgeway_tunnel"] {
            assert!(!names(&text, banned), "{} names {banned}", path.display());
        }
    }
}

#[test]
fn hub_and_agent_name_each_plugin_in_one_file() {
    for (host, plugins) in [
        ("cloud-hub/src", &["edgeway_rest", "edgeway_echo"][..]),
        ("edge-agent/src", &["edgeway_http_service", "edgeway_tcp_service", "edgeway_echo"]),
    ] {
        let files = sources(host);
        for plugin in plugins {
            let named: Vec<_> =
                files.iter().filter(|(_, text)| names(text, plugin)).map(|(path, _)| path).collect();
            assert_eq!(named.len(), 1, "{plugin} is to be named in one file of {host}, not in {named:?}");
        }
    }
}
