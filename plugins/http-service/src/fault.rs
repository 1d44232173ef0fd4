//! What went wrong with the service, as faults that say it in one sentence.

use std::{error::Error, fmt::Write};

use edgeway_plugin::{Fault, FaultCode};

use crate::config::PoolSettings;

/// No connection came to be.
pub(crate) fn refused(to: &dyn std::fmt::Display, error: &dyn Error) -> Fault {
    Fault::with_detail(FaultCode::ServiceRefused, format!("can't connect to {to}: {}", chain(error)))
}

/// No connection came to be in time.
pub(crate) fn refused_in_time(to: &dyn std::fmt::Display, timeout: std::time::Duration) -> Fault {
    Fault::with_detail(FaultCode::ServiceRefused, format!("can't connect to {to} within {timeout:?}"))
}

/// The exchange broke off before the answer's head was there, or the head was not valid.
pub(crate) fn no_answer(error: &hyper::Error, limits: &PoolSettings) -> Fault {
    let detail = if error.is_parse_too_large() {
        format!(
            "the head of the service's answer is over {} bytes or {} fields",
            limits.header_bytes, limits.header_count
        )
    } else if error.is_parse() {
        format!("the service's answer is not valid: {}", chain(error))
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        "the service closed the connection without an answer".to_owned()
    } else {
        format!("the service broke off without an answer: {}", chain(error))
    };
    Fault::with_detail(FaultCode::ServiceReset, detail)
}

/// The exchange broke off in the answer's body.
pub(crate) fn cut_answer(error: &dyn Error) -> Fault {
    Fault::with_detail(
        FaultCode::ServiceReset,
        format!("the service broke off before the end of its answer: {}", chain(error)),
    )
}

/// The service broke a rule of the protocol.
pub(crate) fn nonsense(detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::with_detail(FaultCode::ServiceReset, detail)
}

/// The request breaks a rule of the protocol.
pub(crate) fn bad_request(detail: impl Into<std::borrow::Cow<'static, str>>) -> Fault {
    Fault::with_detail(FaultCode::BadRequest, detail)
}

/// An error with its causes, as one line: a fault has no chain of its own.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // Several layers repeat the message of the one below.
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
        source = error.source();
    }
    text
}
