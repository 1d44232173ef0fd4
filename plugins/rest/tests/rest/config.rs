//! The section of the config: what is taken, and how what is not is reported.

use edgeway_rest::RestConfig;
use serde_json::{Value, json};

use crate::{http2::Tls, support::build};

fn problems(config: Value) -> Vec<String> {
    let error = build(config).expect_err("it has problems");
    error.problems().iter().map(|(path, message)| format!("{path}: {message}")).collect()
}

#[test]
fn a_listener_is_all_that_is_needed() {
    let plugin = build(json!({"listeners": [{"address": "[::1]:8080"}]})).expect("a valid config");
    let text = format!("{plugin:?}");
    let defaults = [
        "connections: 10000",
        "header_count: 100",
        "header_bytes: 61440",
        "request_body: 4294967296",
        "concurrent_streams: 256",
        "request_head: 10s",
        "keep_alive: 75s",
        "via: \"edgeway\"",
        "trust_forwarded: false",
    ];
    for default in defaults {
        assert!(text.contains(default), "{default} is not in {text}");
    }
}

#[test]
fn every_problem_is_reported_at_once_with_its_path() {
    let found = problems(json!({
        "listeners": [
            {"address": "localhost:8080"},
            {"address": "127.0.0.1:8080"},
            {"address": "127.0.0.1:8080"},
            {"address": "127.0.0.1:8081", "tls": {"certificate": "/nowhere/a.crt", "key": "/nowhere/a.key"}},
        ],
        "limits": {"connections": 0, "headerCount": 0, "headerBytes": 10, "concurrentStreams": 0},
        "timeouts": {"requestHead": "0s", "keepAlive": "48h"},
        "via": "two words",
    }));
    let expected = [
        "listeners[0].address: 'localhost:8080' is no address to listen on; allowed is an IP address and a port",
        "listeners[2].address: 127.0.0.1:8080 is taken by listeners[1] already",
        "listeners[3].tls.certificate: can't read /nowhere/a.crt: No such file",
        "listeners[3].tls.key: can't read /nowhere/a.key: No such file",
        "limits.connections: is 0; allowed is 1 to 1000000",
        "limits.headerCount: is 0; allowed is 1 to 10000",
        "limits.headerBytes: is 10; allowed is 1KiB to 1MiB",
        "limits.concurrentStreams: is 0; allowed is 1 to 10000",
        "timeouts.requestHead: is 0ms; allowed is 1ms to 24h",
        "timeouts.keepAlive: is 48h; allowed is 1ms to 24h",
        "via: must be 1 to 100 letters",
    ];
    for start in expected {
        assert!(found.iter().any(|problem| problem.starts_with(start)), "{start:?} is not in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    assert!(problems(json!({"listeners": []}))[0].starts_with("listeners: is empty"));
}

#[test]
fn unknown_fields_are_refused_with_those_that_are_allowed() {
    let parse = |config| serde_json::from_value::<RestConfig>(config).expect_err("unknown").to_string();
    let error = parse(json!({"listeners": [], "listener": 1}));
    assert!(error.contains("`listener`") && error.contains("`trustForwarded`"), "{error}");
    let error = parse(json!({"listeners": [{"address": "127.0.0.1:0", "port": 1}]}));
    assert!(error.contains("`port`") && error.contains("`address`"), "{error}");
    let error = parse(json!({"listeners": [], "limits": {"headers": 1}}));
    assert!(error.contains("`headers`") && error.contains("`headerCount`"), "{error}");
}

#[test]
fn files_of_tls_that_do_not_fit_are_reported_without_their_content() {
    let (tls, other) = (Tls::new(), Tls::new());
    let with = |certificate: String, key: String| json!({"listeners": [{"address": "127.0.0.1:0", "tls": {"certificate": certificate, "key": key}}]});
    assert!(build(with(tls.file("rest.crt"), tls.file("rest.key"))).is_ok());
    let found = problems(with(tls.file("rest.crt"), other.file("rest.key")));
    assert!(found[0].contains("does not belong to the certificate in"), "{found:?}");
    let found = problems(with(tls.file("rest.key"), tls.file("rest.crt")));
    assert!(
        found[0].contains("holds no certificate") && found[1].contains("holds no private key"),
        "{found:?}"
    );
    std::fs::write(tls.file("odd.key"), "-----BEGIN PRIVATE KEY-----\nsecret!\n-----END PRIVATE KEY-----\n")
        .unwrap();
    let found = problems(with(tls.file("rest.crt"), tls.file("odd.key")));
    assert!(found[0].contains("odd.key") && !found[0].contains("secret"), "{found:?}");
    let found = problems(with(tls.directory.path().to_str().unwrap().to_owned(), tls.file("rest.key")));
    assert!(found[0].starts_with("listeners[0].tls.certificate: can't read"), "{found:?}");
}
