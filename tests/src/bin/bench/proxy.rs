//! Role `proxy`: the least that a one-hop proxy on hyper's bare connection API does. What Edgeway adds is above this.

use std::{
    cell::RefCell,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self as dialled, SendRequest},
    server::conn::http1 as accepted,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

use crate::{Outcome, process};

/// Connections to the service that are idle, the one used last on top.
type Pool = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

/// Serves until it is killed.
pub(crate) async fn run(service: SocketAddr) -> Outcome<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    process::say_ready(listener.local_addr()?);
    let pool = Pool::default();
    LocalSet::new()
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let pool = pool.clone();
                spawn_local(async move {
                    let forward = service_fn(|request| forward(request, service, pool.clone()));
                    let _ = accepted::Builder::new().serve_connection(TokioIo::new(stream), forward).await;
                });
            }
        })
        .await
}

async fn forward(request: Request<Incoming>, service: SocketAddr, pool: Pool) -> Outcome<Response<Pooled>> {
    let mut idle = pool.borrow_mut().pop();
    if let Some(sender) = &mut idle
        && sender.ready().await.is_err()
    {
        idle = None;
    }
    let mut sender = match idle {
        Some(sender) => sender,
        None => connect(service).await?,
    };
    let answer = sender.send_request(request).await?;
    Ok(answer.map(|body| Pooled { body, sender: Some(sender), pool }))
}

async fn connect(service: SocketAddr) -> Outcome<SendRequest<Incoming>> {
    let stream = TcpStream::connect(service).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = dialled::handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}

/// The service's body; once it was read to its end, the connection goes back into the pool.
struct Pooled {
    body: Incoming,
    sender: Option<SendRequest<Incoming>>,
    pool: Pool,
}

impl Body for Pooled {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take().filter(|_| self.body.is_end_stream()) {
            self.pool.borrow_mut().push(sender);
        }
    }
}
