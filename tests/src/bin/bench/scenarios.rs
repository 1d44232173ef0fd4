//! The measurements. All that is compared runs in turns within one run, as absolute figures drift.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    Outcome,
    bulk::{self, Direction},
    load,
    process::{Process, Usage},
    quic,
    report::{BulkRow, CallRow, Hop, IdleSessions, MemoryRow, SlowReaders, median, micros},
    sessions,
    world::{self, Calls, Hub, Way, text},
};

/// How long, and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) time: Duration,
}

const BODIES: [(&str, &str); 2] = [("0 B", "/0"), ("1 KiB", "/1k")];
const CONNECTIONS: [u32; 4] = [1, 16, 64, 256];
const BULK: u64 = 100_000_000;

/// The ways that are compared, the service itself first.
pub(crate) fn ways(directory: &Path, service: SocketAddr) -> Outcome<Vec<Way>> {
    Ok(vec![
        Way { name: "direct", address: service, hops: Vec::new() },
        world::hyper(service)?,
        world::nginx(directory, service)?,
        Hub::start(directory, "hub", Calls::Default)?.with_agent(service, Calls::Default)?,
    ])
}

/// Small calls over every way.
pub(crate) fn calls(ways: &[Way], effort: Effort) -> Outcome<Vec<CallRow>> {
    // By body, connections and way, which is the order of the table.
    let mut runs: BTreeMap<(usize, u32, usize), Vec<Measured>> = BTreeMap::new();
    for round in 1..=effort.rounds {
        for (body, (name, path)) in BODIES.iter().enumerate() {
            for connections in CONNECTIONS {
                eprintln!("round {round} of {}: {name}, {connections} connections", effort.rounds);
                for (at, way) in ways.iter().enumerate() {
                    let measured = measure(way, path, connections, effort.time)?;
                    runs.entry((body, connections, at)).or_default().push(measured);
                }
            }
        }
    }
    let rows = runs.into_iter().map(|((body, connections, way), runs)| CallRow {
        way: ways[way].name,
        body: BODIES[body].0,
        connections,
        calls_per_second: median(runs.iter().map(|(run, _)| run.calls_per_second)),
        p50_us: median(runs.iter().map(|(run, _)| micros(run.p50))),
        p99_us: median(runs.iter().map(|(run, _)| micros(run.p99))),
        hops: ways[way]
            .hops
            .iter()
            .enumerate()
            .map(|(hop, process)| Hop {
                name: process.name,
                cpu_us_per_call: median(runs.iter().map(|(_, hops)| hops[hop].cpu_us_per_call)),
                peak_bytes: runs.iter().map(|(_, hops)| hops[hop].peak_bytes).max().unwrap_or(0),
            })
            .collect(),
    });
    Ok(rows.collect())
}

/// A run, and what the processes on the way used for it.
type Measured = (load::Run, Vec<Hop>);

fn measure(way: &Way, path: &str, connections: u32, time: Duration) -> Outcome<Measured> {
    let before = usage(way)?;
    let run = load::run(way.address, path, connections, time)?;
    let hops = usage(way)?.into_iter().zip(before).zip(&way.hops).map(|((after, before), process)| Hop {
        name: process.name,
        cpu_us_per_call: micros(after.cpu - before.cpu) / run.calls as f64,
        peak_bytes: after.peak,
    });
    Ok((run, hops.collect()))
}

fn usage(way: &Way) -> Outcome<Vec<Usage>> {
    way.hops.iter().map(Process::usage).collect()
}

/// Large bodies over every way, beside a raw QUIC stream between two processes.
pub(crate) fn bulk(directory: &Path, ways: &[Way], effort: Effort) -> Outcome<Vec<BulkRow>> {
    quic::write_certificate(directory)?;
    let directory = text(directory)?;
    let (_raw, peer) = Process::role("quic-accept", &["--directory", directory])?;
    let mut rows = Vec::new();
    for (direction, name) in [(Direction::Down, "down"), (Direction::Up, "up")] {
        eprintln!("{} MB {name}", BULK / 1_000_000);
        let mut speeds: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        // One more round than counts: the first warms up what grows with use.
        for round in 0..=effort.rounds {
            let mut note = |way, took: Duration| {
                if round > 0 {
                    speeds.entry(way).or_default().push(BULK as f64 / took.as_secs_f64());
                }
            };
            note(0, raw(directory, peer, name)?);
            for (at, way) in ways.iter().enumerate() {
                note(at + 1, bulk::http(way.address, direction, BULK)?);
            }
        }
        rows.extend(speeds.into_iter().map(|(at, speeds)| BulkRow {
            way: at.checked_sub(1).map_or("raw quinn", |way| ways[way].name),
            direction: name,
            bytes: BULK,
            bytes_per_second: median(speeds),
        }));
    }
    Ok(rows)
}

/// One transfer on a fresh connection, the second of two: the congestion window has opened by then, as it has in a
/// session of the tunnel.
fn raw(directory: &str, peer: SocketAddr, direction: &str) -> Outcome<Duration> {
    let size = BULK.to_string();
    let peer = peer.to_string();
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["quic-transfer", "--directory", directory, "--peer", &peer, "--direction", direction])
        .args(["--size", &size, "--times", "2"])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let printed = String::from_utf8(output.stdout)?;
    Ok(Duration::from_nanos(printed.lines().nth(1).ok_or("the raw stream failed")?.parse()?))
}

/// The memory of hub and agent over one body that is much larger.
pub(crate) fn growth(edgeway: &Way, size: u64) -> Outcome<Vec<MemoryRow>> {
    eprintln!("{} MB down, for memory", size / 1_000_000);
    for hop in &edgeway.hops {
        hop.forget_peak()?;
    }
    let before = usage(edgeway)?;
    bulk::http(edgeway.address, Direction::Down, size)?;
    let rows =
        usage(edgeway)?.into_iter().zip(before).zip(&edgeway.hops).map(|((after, before), hop)| MemoryRow {
            name: hop.name,
            body_bytes: size,
            resident_before: before.resident,
            peak_during: after.peak,
        });
    Ok(rows.collect())
}

/// Other calls before and beside many slow readers, on a hub and agent that let so many in.
pub(crate) fn slow_readers(
    directory: &Path,
    service: SocketAddr,
    readers: u32,
    effort: Effort,
) -> Outcome<SlowReaders> {
    eprintln!("{readers} slow readers");
    let calls = Calls::AtMost(readers * 2);
    let edgeway = Hub::start(directory, "slow", calls)?.with_agent(service, calls)?;
    let p99 = || -> Outcome<f64> {
        let runs: Outcome<Vec<_>> =
            (0..effort.rounds).map(|_| load::run(edgeway.address, "/1k", 16, effort.time)).collect();
        Ok(median(runs?.iter().map(|run| micros(run.p99))))
    };
    // What a fresh process does once is not the slow readers' doing.
    load::run(edgeway.address, "/1k", 16, Duration::from_secs(1))?;
    let p99_us_before = p99()?;
    let before = usage(&edgeway)?;
    let arguments = ["--target", &edgeway.address.to_string(), "--count", &readers.to_string()];
    let (_readers, _) = Process::role("slow-readers", &arguments)?;
    // At first every answer fills the windows on its way, which is bulk at full speed; what lasts comes after.
    let p99_us_onset = micros(load::run(edgeway.address, "/1k", 16, effort.time)?.p99);
    edgeway.hops.iter().try_for_each(|hop| settled(hop).map(drop))?;
    let p99_us_during = p99()?;
    let each = |at: usize, after: &[Usage]| {
        (after[at].resident.saturating_sub(before[at].resident)) as f64 / f64::from(readers)
    };
    let after = usage(&edgeway)?;
    Ok(SlowReaders {
        readers,
        p99_us_before,
        p99_us_onset,
        p99_us_during,
        hub_bytes_per_reader: each(0, &after),
        agent_bytes_per_reader: each(1, &after),
    })
}

/// What many sessions cost that do nothing.
pub(crate) fn idle_sessions(directory: &Path, count: u32) -> Outcome<IdleSessions> {
    eprintln!("{count} idle sessions");
    let hub = Hub::start(directory, "idle", Calls::Default)?;
    let nodes = directory.join("nodes");
    for node in 0..count {
        hub.issue_node(&sessions::directory(&nodes, node), &format!("node-{node}"))?;
    }
    let arguments =
        ["--hub", &hub.tunnel.to_string(), "--nodes", text(&nodes)?, "--count", &count.to_string()];
    let (mut agents, _) = Process::role("sessions", &arguments)?;
    let before = (hub.process.usage()?, agents.usage()?);
    let began = Instant::now();
    agents.tell()?;
    if agents.hear()? != "open" {
        return Err("the sessions did not open".into());
    }
    let opened_in_ms = micros(began.elapsed()) / 1e3;
    let after = (settled(&hub.process)?, settled(&agents)?);
    let each = |before: Usage, after: Usage| {
        after.resident.saturating_sub(before.resident) as f64 / f64::from(count)
    };
    Ok(IdleSessions {
        sessions: count,
        opened_in_ms,
        hub_bytes_per_session: each(before.0, after.0),
        agent_bytes_per_session: each(before.1, after.1),
    })
}

/// Waits until a process uses next to no CPU for two seconds: what a burst left to do is done.
fn settled(process: &Process) -> Outcome<Usage> {
    let began = Instant::now();
    let mut last = process.usage()?;
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = process.usage()?;
        // A thousand slow readers and as many sessions' pings cost some; a burst costs whole seconds.
        if now.cpu - last.cpu <= Duration::from_millis(100) || began.elapsed() > Duration::from_secs(30) {
            return Ok(now);
        }
        last = now;
    }
}
