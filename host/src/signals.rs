//! Signals that end a process: the first asks for a clean end, the second for one at once.

use std::{future::Future, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code after a second signal: 128 and the number of SIGINT, as shells have it.
pub const IMPATIENT: i32 = 130;

/// SIGTERM and SIGINT, caught from the moment this is made. Spawns nothing.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches the signals. From now on they no longer end the process by themselves. Needs a tokio runtime.
    ///
    /// # Errors
    /// The operating system refused.
    pub fn catch() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for a signal and returns its name.
    ///
    /// # Cancel safety
    /// No signal is lost if the future is dropped.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            // Which comes first makes no difference; both are asked for the same.
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Finishes `shutdown`, unless another signal comes: then the process exits at once with [`IMPATIENT`], and says
    /// why.
    ///
    /// # Cancel safety
    /// Drops `shutdown`.
    pub async fn unless_impatient<F: Future>(&mut self, shutdown: F) -> F::Output {
        tokio::select! {
            // A shutdown that is done at the same moment is done.
            biased;
            output = shutdown => output,
            name = self.next() => {
                tracing::error!(signal = name, "second signal, exiting at once; running calls are cut");
                #[allow(clippy::exit, reason = "whoever sends a second signal wants no clean end")]
                std::process::exit(IMPATIENT)
            }
        }
    }
}

/// Waits for the first SIGTERM or SIGINT and returns its name. For processes that have nothing to finish; others keep
/// [`Signals`].
///
/// # Errors
/// The operating system refused to hand out signals.
///
/// # Cancel safety
/// Safe to drop, but the signals stay caught.
pub async fn shutdown_signal() -> io::Result<&'static str> {
    Ok(Signals::catch()?.next().await)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use super::*;

    /// Not a test of its own: the process that the tests below send signals to.
    #[tokio::test]
    #[ignore = "started by the other tests of this module"]
    async fn a_process_that_never_finishes() {
        let mut signals = Signals::catch().expect("signals");
        println!("\nready");
        println!("\nfirst {}", signals.next().await);
        signals.unless_impatient(std::future::pending::<()>()).await;
    }

    /// Starts the process above and returns it with the lines that it prints.
    fn start() -> (Child, impl Iterator<Item = String>) {
        let mut child = Command::new(std::env::current_exe().expect("a test binary"))
            .args(["--exact", "signals::tests::a_process_that_never_finishes", "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        (child, lines.map(|line| line.expect("text")))
    }

    fn send(signal: &str, child: &Child) {
        let kill = format!("kill -{signal} {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("a shell").success());
    }

    #[test]
    fn a_second_signal_ends_the_process_at_once() {
        for (first, second) in [("TERM", "INT"), ("INT", "TERM")] {
            let (mut child, mut lines) = start();
            assert!(lines.any(|line| line == "ready"));
            send(first, &child);
            assert!(lines.any(|line| line == format!("first SIG{first}")), "the first signal is told apart");
            send(second, &child);
            assert_eq!(child.wait().expect("an end").code(), Some(IMPATIENT));
        }
    }

    #[tokio::test]
    async fn a_shutdown_that_ends_by_itself_is_not_disturbed() {
        let mut signals = Signals::catch().expect("signals");
        assert_eq!(signals.unless_impatient(async { 7 }).await, 7);
    }
}
