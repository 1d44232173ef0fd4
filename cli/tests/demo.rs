//! The binary as a stranger meets it: the demo, its lines in a real shell with a real curl, and wrong usage.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Far beyond what anything here takes, on a busy machine without optimisation.
const BOUND: Duration = Duration::from_secs(90);

fn edgeway(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgeway"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The logs would stand between what is compared here.
    command.env_remove("EDGEWAY_LOG");
    command
}

/// Runs to the end, within [`BOUND`].
fn finished(arguments: &[&str]) -> Output {
    ended(edgeway(arguments).spawn().unwrap())
}

fn ended(child: Child) -> Output {
    let process = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(child.wait_with_output())));
    match receiver.recv_timeout(BOUND) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            signal("KILL", process);
            panic!("not done within {BOUND:?}");
        }
    }
}

fn signal(name: &str, process: u32) {
    let killed = Command::new("sh").args(["-c", &format!("kill -{name} {process}")]).status().unwrap();
    assert!(killed.success());
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A demo that runs, and what it has printed up to its last line.
struct Demo {
    child: Child,
    printed: String,
    rest_of_output: BufReader<std::process::ChildStdout>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let mut child = edgeway(&[&["demo", "--rest-port", "0"], arguments].concat()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let (sender, receiver) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut printed = String::new();
            while output.read_line(&mut printed).unwrap() > 0 && !printed.contains("Ctrl-C") {}
            drop(sender.send(printed));
            output
        });
        let Ok(printed) = receiver.recv_timeout(BOUND) else {
            signal("KILL", child.id());
            panic!("the demo did not become ready");
        };
        Self { child, printed, rest_of_output: reader.join().unwrap() }
    }

    /// The end of its output, and how it ended.
    fn end(mut self) -> (String, Output) {
        let mut rest = String::new();
        let output = ended(self.child);
        self.rest_of_output.read_to_string(&mut rest).unwrap();
        (rest, output)
    }
}

#[test]
fn once_finds_every_answer_right() {
    let output = finished(&["demo", "--once", "--rest-port", "0"]);
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", text(&output.stderr));
    assert!(printed.contains("All 13 answers are right."), "{printed}");
    assert_eq!(printed.matches("\nok  ").count(), 13, "{printed}");
    assert!(printed.ends_with("Stopped; no task is left.\n"), "{printed}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn each_printed_line_works_when_pasted() {
    let demo = Demo::start(&[]);
    let lines: Vec<_> =
        demo.printed.lines().filter(|line| line.starts_with("curl ") || line.starts_with("seq ")).collect();
    assert!(lines.len() >= 14, "{}", demo.printed);
    let mut sums = Vec::new();
    for line in lines {
        let script = format!("set -o pipefail; {line}");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = ended(shell.spawn().unwrap());
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{line}\n{out}\n{err}");
        assert!(!out.is_empty(), "{line}");
        if line.ends_with("| sha256sum") && line.starts_with("curl") {
            let sum = out.split_whitespace().next().unwrap();
            assert!(err.contains(&format!("content-sha256: {sum}")), "{line}\n{out}\n{err}");
        }
        if line.contains("/chat/") {
            assert!(
                out.contains("101 Switching Protocols") && out.contains("time is up at berlin-1"),
                "{out}"
            );
        }
        if line.contains("/clock/") {
            assert_eq!(out.matches("event: tick").count(), 3, "{out}");
        }
        if line.starts_with("seq") {
            sums.push(out.into_owned());
        }
    }
    let [uploaded, expected] = &sums[..] else { panic!("{sums:?}") };
    assert!(uploaded.contains(expected.split_whitespace().next().unwrap()), "{sums:?}");
    signal("TERM", demo.child.id());
    let (rest, output) = demo.end();
    assert!(output.status.success(), "{rest}\n{}", text(&output.stderr));
}

#[test]
fn ctrl_c_ends_it_cleanly_while_a_clock_ticks() {
    let demo = Demo::start(&[]);
    let clock = demo.printed.lines().find(|line| line.contains("/clock/?ticks=3")).unwrap();
    let endless = clock.replace("?ticks=3", "");
    let mut shell = Command::new("bash").args(["-c", &endless]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "event: tick\n");
    signal("INT", demo.child.id());
    let (rest, output) = demo.end();
    assert!(output.status.success(), "{rest}\n{}", text(&output.stderr));
    assert!(rest.ends_with("Stopped; no task is left.\n"), "{rest}");
    assert!(ended(shell).status.success(), "the clock's stream was cut");
}

#[test]
fn it_ends_by_itself_after_the_seconds_that_were_asked_for() {
    let output = finished(&["demo", "--rest-port", "0", "--seconds", "1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).ends_with("Stopped; no task is left.\n"));
}

#[test]
fn a_taken_port_is_told_with_the_flag_that_helps() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = finished(&["demo", "--once", "--rest-port", &port.to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = text(&output.stderr);
    assert!(complaint.contains(&format!("can't listen on 127.0.0.1:{port}")), "{complaint}");
    assert!(complaint.contains("--rest-port"), "{complaint}");
}

#[test]
fn wrong_usage_ends_with_64_and_says_what_is_allowed() {
    for (arguments, hint) in [
        (&["demo", "--seconds", "0"][..], "1..="),
        (&["demo", "--rest-port", "70000"], "--rest-port"),
        (&["demo", "--once", "--seconds", "3"], "--seconds"),
        (&["init"], "<DIR>"),
        (&["init", "x", "--node", "Berlin"], "lower-case letters"),
        (&["init", "x", "--node", "ca"], "'ca'"),
        (&["init", "x", "--hub-address", "hub:7443"], "without a port"),
        (&["service", "ftp", "--node", "a", "--listen", "127.0.0.1:0"], "echo, clock, files, chat or all"),
        (&["service", "all", "--node", "a", "--listen", "nowhere"], "--listen"),
        (&["fly"], "Usage"),
        (&[], "Usage"),
    ] {
        let output = finished(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {complaint}");
        assert!(complaint.contains(hint), "{arguments:?}: {complaint}");
    }
    let help = finished(&["demo", "--help"]);
    assert!(help.status.success());
    assert!(text(&help.stdout).contains("--rest-port"));
}

#[test]
fn init_says_how_to_go_on_and_refuses_to_overwrite() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("my edge");
    let target = target.to_str().unwrap();
    let first = finished(&["init", target]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert!(text(&first.stdout).contains(&format!("cloud-hub run --config '{target}/hub.yaml'")));
    let second = finished(&["init", target]);
    assert_eq!(second.status.code(), Some(64));
    assert!(text(&second.stderr).contains("ca.crt is there already; --force"), "{}", text(&second.stderr));
    assert!(finished(&["init", target, "--force"]).status.success());
}
