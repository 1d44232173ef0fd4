//! The suite's own tests: a good subject keeps every promise, and each promise is broken by a subject with one defect.

mod bad_connectors;
mod bad_plugins;
mod fake;
mod framing;

use std::{future::Future, thread, time::Duration};

use super::{verdict::Checked, with_patience};

/// Runs checks of subjects that are each known to break a promise, with little patience, and insists that it is this
/// promise that each check names. Each check has a runtime of its own, because tasks of a runtime are counted.
fn each_breaks<C>(checks: impl IntoIterator<Item = (&'static str, C)>)
where
    C: Future<Output = Checked> + Send + 'static,
{
    let running = checks.into_iter().map(|(promise, check)| {
        let run = move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(with_patience(Duration::from_millis(1500), check))
        };
        (promise, thread::spawn(run))
    });
    let running: Vec<_> = running.collect();
    assert!(!running.is_empty());
    for (promise, check) in running {
        let panic = match check.join() {
            Ok(Ok(())) => panic!("a defect went unseen: {promise}"),
            Ok(Err(_)) => panic!("a check was skipped: {promise}"),
            Err(panic) => panic,
        };
        let said = panic.downcast_ref::<String>().expect("a panic with a message");
        assert!(
            said.starts_with(&format!("promise broken: {promise}: ")),
            "another promise was broken: {said}"
        );
    }
}
