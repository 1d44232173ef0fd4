//! Calls that leave HTTP: `Upgrade` of HTTP/1.1, such as WebSocket.
//!
//! ```text
//! asked ──101──▶ answered ──head is out──▶ switched ──either half ends──▶ half closed ──the other──▶ over
//!   └─any other status─▶ an ordinary call           └──a fault──▶ reset
//! ```
//!
//! The request's body is the receiver of a channel that holds one piece. Once the connection has switched, its own task
//! feeds the channel and writes the answer's body out: no task more, and a caller that is not read from is not read ahead.
//! If the switch does not come, the channel closes, and the body has ended without a byte.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use edgeway_plugin::{Body, Fault, FaultCode};
use http::{
    HeaderMap, HeaderValue, Version,
    header::{CONNECTION, UPGRADE},
    request,
};
use http_body::Frame;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::mpsc,
};

use crate::{activity::Activity, headers, transport::Transport};

/// Bytes that are read from a caller at once. Chat and the like send far less; bulk gains little above it.
const PIECE: usize = 16 * 1024;

type Upload = mpsc::Sender<Result<Bytes, Fault>>;

/// A request to switch, on its way to the service.
pub(crate) struct Asked {
    protocol: HeaderValue,
    on_upgrade: OnUpgrade,
    upload: Upload,
}

impl Asked {
    /// Takes the request to switch out of a head, with the body that yields what the caller sends after the switch.
    /// `None` for a head that asks for nothing, or for something that a service can't have: HTTP/2 ends here, and where
    /// a body comes first, nobody could tell its end from the beginning of the new protocol.
    pub(crate) fn of(head: &mut request::Parts, has_body: bool) -> Option<(Self, Body)> {
        let on_upgrade = head.extensions.remove::<OnUpgrade>()?;
        let headers = &head.headers;
        let asks = head.version == Version::HTTP_11
            && headers::has_token(headers, &CONNECTION, "upgrade")
            && !headers::has_token(headers, &UPGRADE, "h2c");
        let mut protocols = headers.get_all(UPGRADE).iter();
        let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return None };
        if !asks || has_body {
            return None;
        }
        let (upload, uploaded) = mpsc::channel(1);
        let asked = Self { protocol: protocol.clone(), on_upgrade, upload };
        Some((asked, Body::new(Uploaded(uploaded))))
    }

    /// Says in a head what is asked, or answered where the service does not say it itself.
    pub(crate) fn say(&self, headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.unwrap_or_else(|| self.protocol.clone()));
    }

    /// The service has switched; `answer` is what it sends from now on.
    pub(crate) fn answered(self, answer: Body) -> Switch {
        Switch { on_upgrade: self.on_upgrade, upload: self.upload, answer }
    }
}

/// A connection that switches as soon as the answer's head is out.
pub(crate) struct Switch {
    on_upgrade: OnUpgrade,
    upload: Upload,
    answer: Body,
}

impl Switch {
    /// Carries bytes both ways until both ways have ended, or one has failed. A fault resets the connection: whatever is
    /// spoken on it must not look finished.
    ///
    /// # Cancel safety
    /// Dropping it closes the connection and cancels the call.
    pub(crate) async fn run(self, activity: Arc<Activity>) {
        // An error means that the caller left before the answer's head was out.
        let Ok(upgraded) = self.on_upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<Transport>>() else {
            unreachable!("the connection was made from this type");
        };
        let mut transport = parts.io.into_inner();
        transport.give_back(parts.read_buf);
        let (reader, writer) = tokio::io::split(transport);
        let mut download = pin!(download(self.answer, writer, &activity));
        let mut upload = pin!(upload(reader, self.upload));
        let mut uploading = true;
        let end = loop {
            tokio::select! {
                biased; // the answer's end decides more than the request's
                end = &mut download => break end,
                end = &mut upload, if uploading => match end {
                    End::Complete => uploading = false,
                    End::Broken => break End::Broken,
                },
            }
        };
        if end == End::Complete && uploading {
            upload.await;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Broken,
}

/// From the caller to the service, until the caller has ended its half or nobody wants to hear more.
async fn upload(mut reader: ReadHalf<Transport>, upload: Upload) -> End {
    let mut buffer = BytesMut::new();
    loop {
        let Ok(place) = upload.reserve().await else { return End::Complete };
        buffer.reserve(PIECE);
        let read = tokio::select! {
            biased; // who hears nothing more need not be read for
            () = upload.closed() => return End::Complete,
            read = reader.read_buf(&mut buffer) => read,
        };
        match read {
            Ok(0) => return End::Complete,
            Ok(_) => place.send(Ok(buffer.split().freeze())),
            Err(_) => {
                place
                    .send(Err(Fault::with_detail(FaultCode::Cancelled, "the caller's connection broke off")));
                return End::Broken;
            }
        }
    }
}

/// From the service to the caller.
async fn download(mut answer: Body, mut writer: WriteHalf<Transport>, activity: &Activity) -> End {
    while let Some(frame) = answer.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                if writer.write_all(&data).await.is_err() || writer.flush().await.is_err() {
                    return End::Broken;
                }
            }
            // Trailers mean nothing outside of HTTP.
            Ok(Err(_)) => {}
            Err(fault) => {
                tracing::debug!(%fault, "upgraded connection was cut");
                activity.cut();
                return End::Broken;
            }
        }
    }
    match writer.shutdown().await {
        Ok(()) => End::Complete,
        Err(_) => End::Broken,
    }
}

/// What the caller sends after the switch.
struct Uploaded(mpsc::Receiver<Result<Bytes, Fault>>);

impl http_body::Body for Uploaded {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
