//! The control stream of a session: the agent's Hello, the hub's Welcome, then Drain either way.
//!
//! ```text
//!   agent                      hub
//!   open stream, HELLO  ──▶    name from the certificate, labels and services from HELLO
//!                       ◀──    WELCOME {generation}
//!                       ◀─▶    DRAIN, at any time, once
//!   close(code, reason) ◀─▶    ends the session
//! ```

use std::time::Duration;

use bytes::BytesMut;
use edgeway_proto::{
    Close, CloseCode,
    frame::{FrameLimits, FrameReader, FrameType, put_message},
    wire,
};
use prost::Message;

use crate::{
    body::{Frames, FramesError},
    link::{Link, LinkEnd, SendHalf},
};

/// Longest time for Hello and Welcome, together with the handshake before them. Over a slow satellite link that is some
/// ten round trips.
pub const OPENING: Duration = Duration::from_secs(10);

/// Most labels, most services, and the longest label text that a Hello may carry.
const MOST_LABELS: usize = 64;
const MOST_SERVICES: usize = 1024;
const LONGEST_LABEL: usize = 253;

/// Why a session did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpeningError {
    /// The link ended.
    #[error("link ended")]
    Link(#[from] LinkEnd),
    /// The peer broke the protocol.
    #[error("peer broke the protocol: {0}")]
    Protocol(String),
    /// It took longer than [`OPENING`].
    #[error("no answer within {} s", OPENING.as_secs())]
    TimedOut,
}

impl OpeningError {
    /// How the link is to be closed on account of it.
    pub fn close(&self) -> Close {
        let code = match self {
            OpeningError::TimedOut => CloseCode::HandshakeTimeout,
            _ => CloseCode::ProtocolError,
        };
        Close::new(code, self.to_string())
    }
}

impl From<FramesError> for OpeningError {
    fn from(error: FramesError) -> Self {
        match error {
            FramesError::Stream(crate::link::StreamEnd::Link(end)) => OpeningError::Link(end),
            other => OpeningError::Protocol(other.to_string()),
        }
    }
}

/// The control stream of an open session. Dropped, it ends the stream, which the peer takes for the session's end.
#[derive(Debug)]
pub struct Control {
    send: SendHalf,
    frames: Frames,
}

/// What the peer says on the control stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControlEvent {
    /// It drains: finish what runs, start nothing new.
    Drain {
        /// For people.
        reason: String,
        /// When to dial again.
        retry_after: Option<Duration>,
    },
}

impl Control {
    /// The next event, or the session's end.
    ///
    /// # Errors
    /// The link's end, or a breach of protocol, upon which the link is to be closed.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<ControlEvent, OpeningError> {
        let Some(frame) = self.frames.next().await? else {
            return Err(OpeningError::Protocol("the control stream ended".into()));
        };
        match frame.kind {
            FrameType::Drain => {
                let drain = wire::Drain::decode(frame.payload)
                    .map_err(|_| OpeningError::Protocol("a Drain that does not decode".into()))?;
                Ok(ControlEvent::Drain {
                    reason: drain.reason.chars().take(256).collect(),
                    retry_after: drain.retry_after_ms.map(|ms| Duration::from_millis(ms.min(3_600_000))),
                })
            }
            other => Err(OpeningError::Protocol(format!("a {other:?} frame on the control stream"))),
        }
    }

    /// Tells the peer to start nothing new.
    ///
    /// # Errors
    /// The link's end.
    pub async fn drain(&mut self, reason: &str, retry_after: Option<Duration>) -> Result<(), OpeningError> {
        let drain = wire::Drain {
            reason: reason.into(),
            retry_after_ms: retry_after.map(|after| after.as_millis().try_into().unwrap_or(u64::MAX)),
        };
        self.write(FrameType::Drain, &drain).await
    }

    async fn write(&mut self, kind: FrameType, message: &impl Message) -> Result<(), OpeningError> {
        let mut out = BytesMut::new();
        put_message(&mut out, kind, message);
        self.send.write(out.freeze()).await.map_err(|end| FramesError::Stream(end).into())
    }
}

/// Agent: opens the control stream, says Hello and waits for Welcome.
///
/// # Errors
/// The link's end, a breach of protocol, or [`OPENING`] passed. The caller closes the link.
///
/// # Cancel safety
/// Dropping the future resets the stream; close the link then.
pub async fn open_session(
    link: &Link,
    hello: &wire::Hello,
) -> Result<(Control, wire::Welcome), OpeningError> {
    let opening = async {
        let (send, recv) = link.open().await.map_err(|fault| match link.end() {
            Some(end) => OpeningError::Link(end),
            None => OpeningError::Protocol(fault.to_string()),
        })?;
        let mut control =
            Control { send, frames: Frames::new(recv, FrameReader::new(FrameLimits::default())) };
        control.write(FrameType::Hello, hello).await?;
        match control.frames.next().await? {
            Some(frame) if frame.kind == FrameType::Welcome => {
                let welcome = wire::Welcome::decode(frame.payload)
                    .map_err(|_| OpeningError::Protocol("a Welcome that does not decode".into()))?;
                Ok((control, welcome))
            }
            Some(frame) => {
                Err(OpeningError::Protocol(format!("a {:?} frame in place of Welcome", frame.kind)))
            }
            None => Err(OpeningError::Protocol("the control stream ended before Welcome".into())),
        }
    };
    tokio::time::timeout(OPENING, opening).await.map_err(|_| OpeningError::TimedOut)?
}

/// Hub: waits for the control stream and its Hello. Answer with [`welcome`].
///
/// # Errors
/// As [`open_session`], and a Hello with more labels or services than is sane.
///
/// # Cancel safety
/// Dropping the future resets the stream; close the link then.
pub async fn accept_session(link: &Link) -> Result<(Control, wire::Hello), OpeningError> {
    let opening = async {
        let (send, recv) = link.accept().await?;
        let mut control =
            Control { send, frames: Frames::new(recv, FrameReader::new(FrameLimits::default())) };
        match control.frames.next().await? {
            Some(frame) if frame.kind == FrameType::Hello => {
                let hello = wire::Hello::decode(frame.payload)
                    .map_err(|_| OpeningError::Protocol("a Hello that does not decode".into()))?;
                check(&hello)?;
                Ok((control, hello))
            }
            Some(frame) => Err(OpeningError::Protocol(format!("a {:?} frame in place of Hello", frame.kind))),
            None => Err(OpeningError::Protocol("the control stream ended before Hello".into())),
        }
    };
    tokio::time::timeout(OPENING, opening).await.map_err(|_| OpeningError::TimedOut)?
}

/// Hub: takes the agent in.
///
/// # Errors
/// The link's end.
pub async fn welcome(control: &mut Control, welcome: &wire::Welcome) -> Result<(), OpeningError> {
    control.write(FrameType::Welcome, welcome).await
}

fn check(hello: &wire::Hello) -> Result<(), OpeningError> {
    let protocol = |what: String| Err(OpeningError::Protocol(what));
    if hello.labels.len() > MOST_LABELS {
        return protocol(format!("{} labels, at most {MOST_LABELS} are allowed", hello.labels.len()));
    }
    if hello.labels.iter().any(|(key, value)| key.len() > LONGEST_LABEL || value.len() > LONGEST_LABEL) {
        return protocol(format!("a label of more than {LONGEST_LABEL} bytes"));
    }
    if hello.services.len() > MOST_SERVICES {
        return protocol(format!("{} services, at most {MOST_SERVICES} are allowed", hello.services.len()));
    }
    Ok(())
}
