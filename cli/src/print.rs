//! Words for the person at the terminal. Plain text without colour, so that it reads the same in a file.

use std::{
    error::Error,
    io::{self, Write},
};

use edgeway_host::Chain;

/// Writes `text` to standard output. Where nobody reads any more (a closed pipe) there is nobody to tell, and no reason to
/// stop what runs.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let end: &[u8] = if text.ends_with('\n') { b"" } else { b"\n" };
    drop(out.write_all(text.as_bytes()).and_then(|()| out.write_all(end)).and_then(|()| out.flush()));
}

/// Writes a failure to standard error, with its causes.
pub(crate) fn complain(error: &(dyn Error + 'static)) {
    drop(writeln!(io::stderr().lock(), "edgeway: {}", Chain(error)));
}
