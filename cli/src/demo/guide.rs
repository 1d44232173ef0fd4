//! What the demo tells the person who started it.

use std::{fmt::Write, time::Duration};

use super::{
    Demo,
    check::Outcome,
    examples::{EXAMPLES, Example},
};

/// What runs where.
pub(super) fn overview(demo: &Demo, ready: Duration) -> String {
    let mut out = String::new();
    let mut row = |name: &str, what: &str, place: &str, remark: &str| {
        let row = format!("  {name:<10} {what:<8} {place:<26} {remark}");
        out.push_str(row.trim_end());
        out.push('\n');
    };
    row(demo.plan.hub.name.as_str(), "rest", &format!("http://{}", demo.rest), "where you call");
    row("", "tunnel", &format!("udp://{}", demo.hub.tunnel_address()), "where the agents dial in");
    if let Some(admin) = demo.hub.admin_address() {
        row("", "admin", &format!("http://{admin}"), "/healthz /readyz /metrics");
    }
    for (node, agent) in demo.plan.nodes.iter().zip(&demo.agents) {
        let mut name = node.name.as_str();
        for (_, service) in demo.services.iter().filter(|(owner, _)| *owner == node.name) {
            let kind = service.kind();
            row(name, kind.name(), &format!("http://{}", service.address()), kind.purpose());
            name = "";
        }
        if let Some(admin) = agent.admin_address() {
            row("", "admin", &format!("http://{admin}"), &format!("of the agent; label site={}", node.site));
        }
    }
    format!(
        "Edgeway: a hub and two agents over QUIC, ready after {} ms. The services are known to their agents only.\n\n{out}\n",
        ready.as_millis()
    )
}

/// The lines to paste.
pub(super) fn suggestions(demo: &Demo, seconds: Option<u32>) -> String {
    let base = format!("http://{}", demo.rest);
    let mut out = String::from("Paste into another terminal:\n");
    for example in EXAMPLES {
        write!(out, "\n# {}\n{}\n", example.title, example.lines(&base).join("\n"))
            .expect("a string takes all");
    }
    if let Some(admin) = demo.hub.admin_address() {
        write!(out, "\n# What the hub counted\ncurl -sS 'http://{admin}/metrics'\n")
            .expect("a string takes all");
    }
    match seconds {
        Some(seconds) => write!(out, "\nIt ends after {seconds} s, or at Ctrl-C."),
        None => write!(out, "\nCtrl-C ends it."),
    }
    .expect("a string takes all");
    out
}

/// One call of `--once`.
pub(super) fn outcome(example: &Example, base: &str, outcome: &Outcome, took: Duration) -> String {
    let verdict = if outcome.wrong.is_empty() { "ok" } else { "WRONG" };
    let mut out = format!("{verdict:<5}  {} ({} ms)\n", example.title, took.as_millis());
    for line in example.lines(base) {
        writeln!(out, "       $ {line}").expect("a string takes all");
    }
    for line in &outcome.shown {
        writeln!(out, "       {line}").expect("a string takes all");
    }
    for line in &outcome.wrong {
        writeln!(out, "       wrong: {line}").expect("a string takes all");
    }
    out
}
