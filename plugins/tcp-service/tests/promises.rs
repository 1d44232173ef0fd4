//! What the connector promises, against real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by panicking")]

use std::{io::ErrorKind, time::Duration};

use edgeway_plugin::{BoxPipe, CallContext, Connector, ConnectorFactory, FaultCode, Health, Request};
use edgeway_tcp_service::{TcpService, TcpServiceFactory};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn service() -> (TcpListener, TcpService) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let section = json!({"address": listener.local_addr().unwrap().to_string()});
    (listener, TcpServiceFactory::build(serde_json::from_value(section).unwrap()).unwrap())
}

async fn opened() -> (TcpStream, BoxPipe) {
    let (listener, service) = service().await;
    let pipe = service.open(CallContext::new()).await.unwrap();
    (listener.accept().await.unwrap().0, pipe)
}

/// An address at which nothing listens.
async fn nowhere() -> TcpService {
    let (listener, service) = service().await;
    drop(listener);
    service
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time")
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_half_ends_on_its_own() {
    let (mut service, mut pipe) = opened().await;
    pipe.write_all(b"ping").await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut heard = Vec::new();
    in_time(service.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"ping");

    service.write_all(b"pong").await.unwrap();
    drop(service);
    let mut answer = Vec::new();
    in_time(pipe.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"pong");
}

#[tokio::test]
async fn the_services_end_leaves_the_callers_half_open() {
    let (mut service, mut pipe) = opened().await;
    service.write_all(b"bye").await.unwrap();
    service.shutdown().await.unwrap();
    let mut answer = Vec::new();
    in_time(pipe.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"bye");

    pipe.write_all(b"still here").await.unwrap();
    pipe.shutdown().await.unwrap();
    let mut heard = Vec::new();
    in_time(service.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"still here");
}

#[tokio::test]
async fn a_pipe_that_is_dropped_is_seen_as_cut() {
    let (mut service, mut pipe) = opened().await;
    pipe.write_all(b"half a mess").await.unwrap();
    let mut heard = [0; 11];
    in_time(service.read_exact(&mut heard)).await.unwrap();
    drop(pipe);
    let error = in_time(service.read(&mut heard)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_service_is_an_error_and_no_end() {
    let (service, mut pipe) = opened().await;
    service.set_zero_linger().unwrap();
    drop(service);
    assert!(in_time(pipe.read(&mut [0; 8])).await.is_err());
}

#[tokio::test]
async fn a_refused_connection_says_where_and_why() {
    let service = nowhere().await;
    let fault = service.open(CallContext::new()).await.err().expect("nothing listens");
    assert_eq!(fault.code(), FaultCode::ServiceRefused);
    assert!(fault.detail().contains(&service.to_string()), "{fault}");
    assert!(fault.detail().contains("refused"), "{fault}");
}

#[tokio::test]
async fn calls_are_unsupported() {
    let (_listener, service) = service().await;
    let request = Request::new(edgeway_plugin::Body::empty());
    let fault = Connector::call(&service, request, CallContext::new()).await.expect_err("no HTTP");
    assert_eq!(fault.code(), FaultCode::Unsupported);
}

#[tokio::test]
async fn a_probe_tells_whether_somebody_listens() {
    let (_listener, service) = service().await;
    assert_eq!(service.probe().await, Health::Ready);
    let Health::Failed(why) = nowhere().await.probe().await else { panic!("nothing listens") };
    assert!(why.contains("refused"), "{why}");
}
