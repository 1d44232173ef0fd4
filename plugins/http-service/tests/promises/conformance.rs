//! The promises of every connector, over HTTP/1.1 and HTTP/2.

use std::{
    convert::Infallible,
    future::pending,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use edgeway_http_service::HttpServiceFactory;
use edgeway_plugin::conformance::{self, LocalService, ServiceBehaviour, StartedService, Tally, TallyEntry};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

/// Services that speak both protocols, at a url of this scheme.
struct Services(&'static str);

impl LocalService for Services {
    async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let section = json!({"url": format!("{}://{}", self.0, listener.local_addr().unwrap())});
        let tally = Tally::default();
        let mut running = JoinSet::new();
        if behaviour != ServiceBehaviour::Refuse {
            running.spawn(serve(listener, behaviour, tally.clone()));
        }
        Some(StartedService::new(section, running).with_tally(tally))
    }
}

async fn serve(listener: TcpListener, behaviour: ServiceBehaviour, tally: Tally) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let tally = tally.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, behaviour, tally.begin()));
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    behaviour: ServiceBehaviour,
    entry: TallyEntry,
) -> io::Result<Response<Echo>> {
    let (left, cut) = match behaviour {
        ServiceBehaviour::StallAfter(0) => {
            // Read to its end, so that the connection's is seen behind it.
            let _ = request.into_body().collect().await;
            let stalled: Result<_, Infallible> = pending().await;
            let Ok(response) = stalled;
            drop(entry);
            return Ok(response);
        }
        ServiceBehaviour::CutAfter(0) => {
            entry.answered();
            return Err(io::Error::other("cut"));
        }
        ServiceBehaviour::StallAfter(length) => (length, false),
        ServiceBehaviour::CutAfter(length) => (length, true),
        ServiceBehaviour::Echo | ServiceBehaviour::Refuse => (usize::MAX, false),
    };
    Ok(Response::new(Echo { incoming: request.into_body(), left, cut, entry: Some(entry) }))
}

/// The request's body, up to some length.
struct Echo {
    incoming: Incoming,
    left: usize,
    cut: bool,
    entry: Option<TallyEntry>,
}

impl http_body::Body for Echo {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            if self.cut {
                if let Some(entry) = self.entry.take() {
                    entry.answered();
                }
                return Poll::Ready(Some(Err(io::Error::other("cut"))));
            }
            return Poll::Pending;
        }
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                if let Some(entry) = self.entry.take() {
                    entry.request_completed();
                    entry.answered();
                }
                Poll::Ready(None)
            }
            Some(Err(error)) => Poll::Ready(Some(Err(io::Error::other(error)))),
            Some(Ok(frame)) => {
                let mut data = frame.into_data().unwrap_or_default();
                data.truncate(self.left);
                self.left -= data.len();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
        }
    }
}

async fn check(scheme: &'static str) {
    let verdict = conformance::connector::<HttpServiceFactory, _>(Services(scheme)).await;
    // Pipes are what it does not have.
    assert_eq!(verdict.skipped.len(), 5, "{verdict}");
    assert_eq!(verdict.kept.len(), 10, "{verdict}");
}

#[tokio::test]
async fn every_promise_of_a_connector_is_kept_over_http_1_1() {
    check("http").await;
}

#[tokio::test]
async fn every_promise_of_a_connector_is_kept_over_http_2() {
    check("h2c").await;
}
