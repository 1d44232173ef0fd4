//! The operator's command line, `edgeway`.
//!
//! - [`demo`]: a hub, two agents and their services in one process, to see it work.
//! - [`init`]: certificates and commented configs, to run it as separate processes.
//! - [`services`]: the demo's local services, also as `edgeway service`.
//!
//! [`run`] is the whole program: it reads the arguments, runs one command on a runtime of its own, and maps what went
//! wrong to an exit code. Nothing here is part of the data path; the hub and the agent know nothing of it.

pub mod arguments;
mod client;
pub mod demo;
pub mod init;
mod print;
pub mod services;
mod standalone;

use std::{error::Error, ffi::OsString, process::ExitCode};

use arguments::{Arguments, Command};
use clap::Parser;
use edgeway_host::{
    BAD_CONFIG,
    logs::{self, FILTER_VARIABLE, LogFormat},
    runtime,
};
use init::{InitError, WriteError};

/// Exit code of something that went wrong at run time.
const FAILED: u8 = 1;

/// Runs the command that `words` ask for; the first word is the program's own name.
///
/// Returns 0 when all went well, 1 when it did not, 64 for wrong usage.
pub fn run(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, not errors. A closed pipe leaves nobody to tell.
            drop(error.print());
            return if error.use_stderr() { BAD_CONFIG.into() } else { ExitCode::SUCCESS };
        }
    };
    // Quiet unless asked: the commands print what there is to know, and logs would stand in between.
    if std::env::var_os(FILTER_VARIABLE).is_some_and(|filter| !filter.is_empty())
        && let Err(error) = logs::start(LogFormat::Text)
    {
        print::complain(&error);
        return BAD_CONFIG.into();
    }
    match &arguments.command {
        Command::Init(arguments) => end(init::run(arguments), |error| match error {
            InitError::Plan(_) | InitError::Write(WriteError::Exists(_)) => BAD_CONFIG,
            InitError::Write(_) => FAILED,
        }),
        Command::Demo(arguments) => on_runtime(demo::run(arguments)),
        Command::Service(arguments) => on_runtime(standalone::run(arguments)),
    }
}

fn on_runtime<E: Error + 'static>(command: impl Future<Output = Result<(), E>>) -> ExitCode {
    // One thread: nothing here is in a hurry, and the demo shows what one thread does.
    match runtime::build(1) {
        Ok(runtime) => end(runtime.block_on(command), |_| FAILED),
        Err(error) => end(Err(error), |_| FAILED),
    }
}

fn end<E: Error + 'static>(result: Result<(), E>, code: impl FnOnce(&E) -> u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::complain(&error);
            code(&error).into()
        }
    }
}
