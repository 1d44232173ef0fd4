//! The benchmarks: what Edgeway costs beside the alternatives, measured in one run on one machine.
//!
//! Every process that is measured is one of its own: hub and agent are the release binaries that lie beside this one,
//! the others are this program in another role. `make bench` builds and runs all of it; tables go to standard output,
//! the same as JSON into `bench.json` beside the binaries.

mod bulk;
mod load;
mod process;
mod proxy;
mod quic;
mod readers;
mod report;
mod scenarios;
mod service;
mod sessions;
mod world;

use std::{error::Error, future::Future, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use self::{
    bulk::Direction,
    process::Process,
    report::Report,
    scenarios::{Effort, ways},
};

/// What everything here returns: a benchmark that can't go on says why and ends.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Measures Edgeway beside nginx, a bare hyper proxy and a raw QUIC stream.
#[derive(Parser)]
struct Command {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    measure: Measure,
}

#[derive(Args)]
struct Measure {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each load runs.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// One round of a second each, a smaller body for memory and fewer sessions: to see that it works.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Small calls.
    Calls,
    /// Large bodies.
    Bulk,
    /// Memory over a very large body.
    Memory,
    /// Other calls beside slow readers.
    Slow,
    /// Idle sessions.
    Idle,
}

/// What the processes of the benchmark are; nothing to call by hand.
#[derive(Subcommand)]
enum Role {
    /// The service.
    #[command(hide = true)]
    Service,
    /// The hyper proxy.
    #[command(hide = true)]
    Proxy {
        #[arg(long)]
        service: SocketAddr,
    },
    /// The raw QUIC stream, accepting side.
    #[command(hide = true)]
    QuicAccept {
        #[arg(long)]
        directory: PathBuf,
    },
    /// The raw QUIC stream, dialling side.
    #[command(hide = true)]
    QuicTransfer {
        #[arg(long)]
        directory: PathBuf,
        #[arg(long)]
        peer: SocketAddr,
        #[arg(long)]
        direction: Direction,
        #[arg(long)]
        size: u64,
        #[arg(long)]
        times: u32,
    },
    /// Slow readers.
    #[command(hide = true)]
    SlowReaders {
        #[arg(long)]
        target: SocketAddr,
        #[arg(long)]
        count: u32,
    },
    /// Idle sessions, the agents' side.
    #[command(hide = true)]
    Sessions {
        #[arg(long)]
        hub: SocketAddr,
        #[arg(long)]
        nodes: PathBuf,
        #[arg(long)]
        count: u32,
    },
}

fn main() -> ExitCode {
    let command = Command::parse();
    let outcome = match command.role {
        None => command.measure.run(),
        Some(Role::Service) => on_one_thread(service::run()),
        Some(Role::Proxy { service }) => on_one_thread(proxy::run(service)),
        Some(Role::QuicAccept { directory }) => on_one_thread(quic::accept(&directory)),
        Some(Role::QuicTransfer { directory, peer, direction, size, times }) => {
            on_one_thread(quic::transfer(&directory, peer, direction, size, times))
        }
        Some(Role::SlowReaders { target, count }) => on_one_thread(readers::run(target, count)),
        Some(Role::Sessions { hub, nodes, count }) => on_one_thread(sessions::run(hub, &nodes, count)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn on_one_thread(role: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(role)
}

impl Measure {
    fn run(self) -> Outcome<()> {
        let (rounds, seconds) = if self.quick { (1, 1) } else { (self.rounds.max(1), self.seconds.max(1)) };
        let effort = Effort { rounds, time: Duration::from_secs(seconds) };
        let (many, large) = if self.quick { (100, 200_000_000) } else { (1_000, 2_000_000_000) };
        let wanted = |part| self.only.is_empty() || self.only.contains(&part);

        let directory = tempfile::tempdir()?;
        let (_service, service) = Process::role("service", &[])?;
        let mut report = Report::default();
        // One measurement that fails leaves the others standing.
        let mut failures = Vec::new();
        if [Part::Calls, Part::Bulk, Part::Memory].into_iter().any(wanted) {
            let ways = ways(directory.path(), service)?;
            if wanted(Part::Calls) {
                keep(&mut report.calls, scenarios::calls(&ways, effort), &mut failures);
            }
            if wanted(Part::Bulk) {
                keep(&mut report.bulk, scenarios::bulk(directory.path(), &ways, effort), &mut failures);
            }
            if let Some(edgeway) = ways.last().filter(|_| wanted(Part::Memory)) {
                keep(&mut report.memory, scenarios::growth(edgeway, large), &mut failures);
            }
        }
        if wanted(Part::Slow) {
            let slow = scenarios::slow_readers(directory.path(), service, many, effort);
            keep(&mut report.slow_readers, slow.map(Some), &mut failures);
        }
        if wanted(Part::Idle) {
            let idle = scenarios::idle_sessions(directory.path(), many);
            keep(&mut report.idle_sessions, idle.map(Some), &mut failures);
        }
        report.judge();
        println!("{}", report.text());
        let file = std::env::current_exe()?.with_file_name("bench.json");
        report.save(&file)?;
        println!("as JSON: {}", file.display());
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
    }
}

fn keep<T>(place: &mut T, measured: Outcome<T>, failures: &mut Vec<String>) {
    match measured {
        Ok(measured) => *place = measured,
        Err(error) => failures.push(error.to_string()),
    }
}
