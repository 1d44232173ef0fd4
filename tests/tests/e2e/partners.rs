//! Partners that are not of our stack: curl, Python's grpcio and websockets. `make test` installs them; without them these
//! tests fail and say so.

use std::{path::PathBuf, process::Stdio};

use tokio::{io::AsyncBufReadExt, process::Command};

use crate::{
    raw,
    world::{ECHO, Plan, World, within},
};

/// Runs curl and returns what it wrote.
pub(crate) async fn curl(arguments: &[&str]) -> String {
    let output =
        Command::new("curl").args(["--silent", "--show-error", "--max-time", "20"]).args(arguments).output();
    let output = output.await.expect("curl is installed: run `make test`");
    assert!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The Python of the virtual environment that `make test` makes in the target directory.
fn python() -> Command {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let python = target.parent().expect("a target directory").join("partners/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make test`, or tests/partners/install test",
        python.display()
    );
    let mut command = Command::new(python);
    command.kill_on_drop(true).stdin(Stdio::null()).env("PYTHONUNBUFFERED", "1");
    command
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("partners").join(name)
}

/// Starts a script that prints the port on which it listens.
async fn start(name: &str) -> (tokio::process::Child, u16) {
    let mut child = python().arg(script(name)).stdout(Stdio::piped()).spawn().expect("Python starts");
    let stdout = child.stdout.take().expect("it is piped");
    let line = within("the partner listens", tokio::io::BufReader::new(stdout).lines().next_line()).await;
    let line = line.expect("text").expect("a line");
    (child, line.parse().expect("a port"))
}

/// Runs a script to its end; it fails by itself where something is wrong.
async fn run(name: &str, arguments: &[&str]) -> String {
    let output =
        within(name, python().arg(script(name)).args(arguments).output()).await.expect("Python starts");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

async fn world_of(service: String) -> World {
    Plan::default().node("berlin-1", [ECHO, &service].concat()).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_passes_unary_and_streaming_calls_errors_and_deadlines() {
    let (_partner, port) = start("grpc_service.py").await;
    let plan = Plan {
        // gRPC has no place for a prefix in its paths.
        routes: "
- {name: grpc, plugin: rest, matches: [{path: {type: PathPrefix, value: /e2e.Partner}}], to: {service: grpc}}
- {name: gone, plugin: rest, matches: [{path: {type: PathPrefix, value: /e2e.Gone}}], to: {service: gone}}
"
        .into(),
        ..Plan::default()
    };
    let services = format!("- {{name: grpc, http: {{url: \"h2c://127.0.0.1:{port}\"}}}}\n");
    let world = plan.node("berlin-1", services).start().await;
    let said = run("grpc_caller.py", &[&world.rest.to_string()]).await;
    for promise in [
        "unary",
        "metadata",
        "server streaming",
        "client streaming",
        "both ways",
        "error",
        "deadline",
        "cancel",
    ] {
        assert!(said.lines().any(|line| line == format!("ok {promise}")), "{promise}: {said}");
    }
    world.until("no call is left in flight", |nodes| nodes.iter().all(|node| node.in_flight == 0)).await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_of_another_stack_talk_through_the_tunnel() {
    let (_partner, port) = start("websocket_service.py").await;
    let world = world_of(format!("- {{name: chat, http: {{url: \"http://127.0.0.1:{port}\"}}}}\n")).await;
    let said = run("websocket_caller.py", &[&format!("ws://{}/any/chat/room?x=1", world.rest)]).await;
    for promise in ["path", "text", "binary", "large", "ping", "many", "close", "closed by the service"] {
        assert!(said.lines().any(|line| line == format!("ok {promise}")), "{promise}: {said}");
    }
    world.until("no call is left in flight", |nodes| nodes.iter().all(|node| node.in_flight == 0)).await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_does_what_callers_do() {
    let world = world_of(String::new()).await;
    let url = format!("http://{}/nodes/berlin-1/echo", world.rest);
    assert_eq!(curl(&[&url]).await, "");
    assert_eq!(curl(&["--data-binary", "hello", &url]).await, "hello");
    // curl waits for a 100 before it sends a body of this size.
    let directory = tempfile::tempdir().expect("a directory");
    let (up, down) = (directory.path().join("up"), directory.path().join("down"));
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 4]).collect();
    std::fs::write(&up, &bytes).expect("written");
    let (up, to) = (up.to_str().expect("UTF-8"), down.to_str().expect("UTF-8"));
    for arguments in [
        &["--upload-file", up, "--header", "Expect: 100-continue"][..],
        &["--upload-file", up, "--http2-prior-knowledge"],
        &["--upload-file", up, "--header", "Transfer-Encoding: chunked"],
    ] {
        curl(&[arguments, &["--output", to, &url]].concat()).await;
        assert!(std::fs::read(&down).expect("an answer") == bytes, "{arguments:?} changed the body");
    }
    let refused = curl(&["--write-out", " %{http_code} %header{edgeway-fault}", &format!("{url}x")]).await;
    assert!(refused.ends_with(" 404 unknown_service"), "{refused}");
    assert_eq!(raw::get(world.rest, "/nodes/berlin-1/echo").await.status, 200);
    world.shutdown().await;
}
