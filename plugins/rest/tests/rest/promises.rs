//! The promises that every plugin keeps, asked over both versions of HTTP.

use std::{net::SocketAddr, pin::pin};

use bytes::Bytes;
use edgeway_plugin::conformance::{self, Driver, Outcome};
use edgeway_rest::RestFactory;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

struct Http1;
struct Http2;

fn request(address: SocketAddr, payload: Bytes) -> Request<Full<Bytes>> {
    Request::post(format!("http://{address}/"))
        .header("host", address.to_string())
        .body(Full::new(payload))
        .unwrap()
}

async fn outcome(answer: hyper::Result<Response<Incoming>>) -> Outcome {
    let Ok(answer) = answer else { return Outcome::Truncated };
    if let Some(code) = answer.headers().get("edgeway-fault") {
        return Outcome::Refused(code.to_str().unwrap().to_owned());
    }
    match answer.into_body().collect().await {
        Ok(whole) => Outcome::Complete(whole.to_bytes()),
        Err(_) => Outcome::Truncated,
    }
}

impl Driver for Http1 {
    async fn exchange(&self, address: SocketAddr, payload: Bytes) -> Outcome {
        let Ok(stream) = TcpStream::connect(address).await else {
            return Outcome::Refused("no listener".into());
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut send, connection) = handshake.expect("nothing is exchanged yet");
        let mut connection = pin!(connection);
        let mut exchange =
            pin!(async move { outcome(send.send_request(request(address, payload)).await).await });
        // In one task, so that the connection closes with this future.
        tokio::select! {
            biased;
            outcome = &mut exchange => outcome,
            _ = &mut connection => exchange.await,
        }
    }

    async fn leave_midway(&self, address: SocketAddr, payload: Bytes) -> bool {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n", payload.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&payload[..payload.len() / 2]).await.unwrap();
        true
    }
}

impl Driver for Http2 {
    async fn exchange(&self, address: SocketAddr, payload: Bytes) -> Outcome {
        let Ok(stream) = TcpStream::connect(address).await else {
            return Outcome::Refused("no listener".into());
        };
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut send, connection) = handshake.expect("nothing is exchanged yet");
        let mut connection = pin!(connection);
        let mut exchange =
            pin!(async move { outcome(send.send_request(request(address, payload)).await).await });
        tokio::select! {
            biased;
            outcome = &mut exchange => outcome,
            _ = &mut connection => exchange.await,
        }
    }
}

#[tokio::test]
async fn every_promise_of_a_plugin_is_kept_over_http_1() {
    let verdict =
        conformance::plugin::<RestFactory, _>(json!({"listeners": [{"address": "127.0.0.1:0"}]}), Http1)
            .await;
    assert!(!verdict.kept.is_empty() && verdict.skipped.is_empty(), "{verdict}");
}

#[tokio::test]
async fn every_promise_of_a_plugin_is_kept_over_http_2() {
    let verdict =
        conformance::plugin::<RestFactory, _>(json!({"listeners": [{"address": "127.0.0.1:0"}]}), Http2)
            .await;
    assert!(!verdict.kept.is_empty() && verdict.skipped.len() <= 1, "{verdict}");
}
