//! Role `service`: the HTTP/1.1 service that everything is measured against, as small as hyper lets it be.
//!
//! `GET /0` and `/1k` answer with that many bytes, `GET /bytes/N` streams N of them, `POST` counts what it is sent.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::{Outcome, process};

/// Size of the pieces in which bulk is produced; what a file service would read at once.
const PIECE: usize = 64 * 1024;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// Serves until it is killed.
pub(crate) async fn run() -> Outcome<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    process::say_ready(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A caller that leaves is nothing to report.
            let _ = http1::Builder::new()
                .half_close(false)
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Zeros>, Infallible> {
    if request.method() == Method::POST {
        return Ok(count(request.into_body()).await);
    }
    let size = match request.uri().path() {
        "/0" => 0,
        "/1k" => 1024,
        path => match path.strip_prefix("/bytes/").and_then(|size| size.parse().ok()) {
            Some(size) => size,
            None => {
                let mut answer = Response::new(Zeros { left: 0 });
                *answer.status_mut() = StatusCode::NOT_FOUND;
                return Ok(answer);
            }
        },
    };
    Ok(Response::new(Zeros { left: size }))
}

/// Reads the whole body; the header `x-bytes` of the answer says how long it was.
async fn count(mut body: Incoming) -> Response<Zeros> {
    let mut bytes: u64 = 0;
    let mut answer = Response::new(Zeros { left: 0 });
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => *answer.status_mut() = StatusCode::BAD_REQUEST,
        }
    }
    answer.headers_mut().insert("x-bytes", bytes.into());
    answer.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    answer
}

struct Zeros {
    left: u64,
}

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.left.min(PIECE as u64) as usize;
        self.left -= size as u64;
        Poll::Ready((size > 0).then(|| Ok(Frame::data(Bytes::from_static(&ZEROS[..size])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
