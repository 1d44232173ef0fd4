//! How a promise is held, and how long anything may take.

use std::{fmt, future::Future, time::Duration};

tokio::task_local! {
    static PATIENCE: Duration;
}

/// How long the suite and [`FakeEdge`](super::FakeEdge) wait for anything before they call it a promise broken: 10 s,
/// generous because what is waited for takes milliseconds, and a busy machine must not fail a good plugin.
pub fn patience() -> Duration {
    PATIENCE.try_with(|patience| *patience).unwrap_or(Duration::from_secs(10))
}

/// Runs `checks` with another [`patience`], for instance a shorter one to see a check fail.
pub async fn with_patience<F: Future>(patience: Duration, checks: F) -> F::Output {
    PATIENCE.scope(patience, checks).await
}

/// Which promises were checked, and which could not be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Promises that were checked and kept.
    pub kept: Vec<&'static str>,
    /// Promises that could not be checked, because the driver, service or world has no such thing.
    pub skipped: Vec<&'static str>,
}

impl Verdict {
    pub(super) fn note(&mut self, promise: &'static str, checked: Checked) {
        match checked {
            Ok(()) => self.kept.push(promise),
            Err(Skipped) => self.skipped.push(promise),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for promise in &self.kept {
            writeln!(f, "kept     {promise}")?;
        }
        for promise in &self.skipped {
            writeln!(f, "skipped  {promise}")?;
        }
        Ok(())
    }
}

/// An enum of promises and their words.
macro_rules! promises {
    ($(#[$doc:meta])* $type:ident: $($variant:ident = $text:literal,)*) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $type { $($variant,)* }

        impl $type {
            /// Every one, in the order in which they are checked.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The promise in words.
            pub(super) const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}
pub(super) use promises;

/// A check found that what it needs is not there.
pub(super) struct Skipped;

pub(super) type Checked = Result<(), Skipped>;

/// One promise under test: everything that breaks it panics with its name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise(pub(super) &'static str);

impl Promise {
    #[track_caller]
    pub(super) fn broken(self, what: impl fmt::Display) -> ! {
        panic!("promise broken: {}: {what}", self.0)
    }

    #[track_caller]
    pub(super) fn holds(self, condition: bool, what: impl FnOnce() -> String) {
        if !condition {
            self.broken(what());
        }
    }

    /// What `future` gives, within [`patience`].
    pub(super) async fn within<T>(self, what: &str, future: impl Future<Output = T> + Send) -> T {
        match tokio::time::timeout(patience(), future).await {
            Ok(output) => output,
            Err(_) => self.broken(format_args!("{what}: not within {:?}", patience())),
        }
    }
}

/// Bytes for a body: printable, without white space, so that any protocol can carry them, and different in every piece,
/// so that a piece lost, doubled or moved is seen.
pub(super) fn payload(length: usize) -> bytes::Bytes {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut state = length as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(length);
    for _ in 0..length {
        // A linear congruential generator (Knuth's MMIX constants): cheap, and its upper bits are random enough.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.push(ALPHABET[(state >> 58) as usize]);
    }
    bytes.into()
}

/// A word on what came instead: the whole of it would drown the message.
pub(super) fn difference(expected: &[u8], found: &[u8]) -> String {
    match expected.iter().zip(found).position(|(expected, found)| expected != found) {
        Some(at) => format!("it differs from byte {at} on ({} bytes of {})", found.len(), expected.len()),
        None => format!("it has {} bytes of {}", found.len(), expected.len()),
    }
}
