//! The command line of a process of ours: `run` and `check`, the same for hub and agent.

use std::{
    error::Error,
    future::Future,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing::{error, info};

use crate::{
    logs::{self, Chain, LogFormat},
    report::{BAD_CONFIG, Report},
    runtime,
    signals::Signals,
};

/// What a process does between its config and its end.
pub trait Process: Sized {
    /// The name of the binary.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// Configured, and not started.
    type Loaded;
    /// Started.
    type Running;
    /// Why it did not start.
    type StartError: Error + 'static;

    /// Reads and checks a config; starts nothing.
    ///
    /// # Errors
    /// One report of all problems.
    fn load(self, config: &Path) -> Result<Self::Loaded, Report>;

    /// Worker threads to run it on.
    fn workers(loaded: &Self::Loaded) -> usize;

    /// Starts it.
    ///
    /// # Errors
    /// What could not be opened.
    fn start(loaded: Self::Loaded) -> impl Future<Output = Result<Self::Running, Self::StartError>>;

    /// Drains and stops it.
    fn shutdown(running: Self::Running) -> impl Future<Output = ()>;
}

#[derive(Debug, Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run until SIGTERM or SIGINT, then drain; a second signal exits at once.
    Run {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How log lines look: text or json. EDGEWAY_LOG filters them, for example EDGEWAY_LOG=debug.
        #[arg(long, value_name = "FORMAT", default_value_t = LogFormat::Text)]
        log_format: LogFormat,
    },
    /// Check a config and say everything that is wrong with it; start nothing.
    Check {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Does what the command line says. Exit codes: 0 done, 1 failed while running, 64 wrong config or usage.
pub fn run<P: Process>(process: P) -> ExitCode {
    let parsed = Command::command().name(P::NAME).about(P::ABOUT).try_get_matches();
    let command = match parsed.and_then(|matches| Command::from_arg_matches(&matches)) {
        Ok(command) => command,
        Err(error) => {
            // Help and version are no errors; a closed standard output is nobody's problem.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_CONFIG } else { 0 });
        }
    };
    let refused = |why: &dyn std::fmt::Display| {
        eprintln!("{why}");
        ExitCode::from(BAD_CONFIG)
    };
    match command.action {
        Action::Check { config } => match process.load(&config) {
            Ok(_) => {
                println!("{}: no problem found", config.display());
                ExitCode::SUCCESS
            }
            Err(report) => refused(&report),
        },
        Action::Run { config, log_format } => {
            if let Err(error) = logs::start(log_format) {
                return refused(&Chain(&error));
            }
            match process.load(&config) {
                Ok(loaded) => serve::<P>(loaded),
                Err(report) => refused(&report),
            }
        }
    }
}

fn serve<P: Process>(loaded: P::Loaded) -> ExitCode {
    let failed = |what: &'static str, error: &(dyn Error + 'static)| {
        error!(error = %Chain(error), "{what}");
        ExitCode::FAILURE
    };
    let runtime = match runtime::build(P::workers(&loaded)) {
        Ok(runtime) => runtime,
        Err(error) => return failed("no runtime", &error),
    };
    runtime.block_on(async {
        let mut signals = match Signals::catch() {
            Ok(signals) => signals,
            Err(error) => return failed("can't catch signals", &error),
        };
        let running = match P::start(loaded).await {
            Ok(running) => running,
            Err(error) => return failed("could not start", &error),
        };
        let signal = signals.next().await;
        info!(signal, "shutting down");
        signals.unless_impatient(P::shutdown(running)).await;
        info!("stopped");
        ExitCode::SUCCESS
    })
}
