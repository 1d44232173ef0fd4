//! What authors rely on when they script a [`FakeEdge`].

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::{
    Behaviour, ConnectorWorld, End, FakeAgent, FakeEdge, FakeServiceFactory, Tap, TapFactory, feed, json,
    with_patience, world::destination,
};
use crate::{
    Body, CallContext, Connector, ConnectorFactory, Edge, Fault, FaultCode, NodeSelector, NodeView, Plugin,
    PluginContext, PluginFactory,
};

fn request(body: Body) -> Request<Body> {
    Request::post("/x?y=1").header("host", "example.com").body(body).expect("a valid request")
}

async fn read(body: Body) -> Result<Bytes, Fault> {
    body.collect(usize::MAX).await
}

#[tokio::test]
async fn an_echo_gives_back_body_and_trailers_and_records_the_call() {
    let edge = FakeEdge::echo();
    let (feeder, body) = feed();
    let answer = edge.call(request(body), CallContext::new()).await.expect("an answer");
    let mut body = answer.into_body();
    feeder.send("one").await;
    assert_eq!(body.frame().await.expect("a piece").expect("no fault").into_data().expect("data"), "one");
    assert!(edge.calls()[0].in_flight());
    let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("7"))]);
    feeder.end_with(trailers.clone()).await;
    assert_eq!(
        body.frame().await.expect("trailers").expect("no fault").into_trailers().expect("trailers"),
        trailers
    );
    assert!(body.frame().await.is_none());
    let call = &edge.calls()[0];
    assert_eq!(call.request.uri(), "/x?y=1");
    assert_eq!((call.upload.bytes, &call.upload.end), (3, &End::Complete));
    assert_eq!((call.answer.bytes, &call.answer.end), (3, &End::Complete));
}

#[tokio::test]
async fn the_lengths_of_bodies_stay_apart() {
    let edge = FakeEdge::echo();
    let absent = edge.call(request(Body::empty()), CallContext::new()).await.expect("an answer");
    assert!(http_body::Body::is_end_stream(absent.body()));
    assert!(absent.headers().is_empty());
    let mut zero = request(Body::full(""));
    zero.headers_mut().insert("content-length", HeaderValue::from_static("0"));
    let zero = edge.call(zero, CallContext::new()).await.expect("an answer");
    assert_eq!(zero.headers()["content-length"], "0");
    drop((absent, zero));
    assert!(edge.calls().iter().all(|call| call.answer.end == End::Complete));
}

#[tokio::test]
async fn a_caller_with_all_declared_bytes_has_not_left() {
    let edge = FakeEdge::echo();
    let (feeder, body) = feed();
    let mut known = request(body);
    known.headers_mut().insert("content-length", HeaderValue::from_static("3"));
    let mut body = edge.call(known, CallContext::new()).await.expect("an answer").into_body();
    feeder.send("one").await;
    body.frame().await.expect("a piece").expect("no fault");
    drop(body);
    assert!(!edge.calls()[0].cancelled());
}

#[tokio::test]
async fn a_cut_ends_with_a_fault_even_after_the_last_byte() {
    for (cut, before) in [(0, ""), (2, "on"), (3, "one")] {
        let edge = FakeEdge::behaving(Behaviour::CutAfter(cut));
        let mut body =
            edge.call(request(Body::full("one")), CallContext::new()).await.expect("an answer").into_body();
        let mut seen = Vec::new();
        let fault = loop {
            match body.frame().await.expect("a cut body has no end") {
                Ok(frame) => seen.extend_from_slice(&frame.into_data().expect("data")),
                Err(fault) => break fault,
            }
        };
        assert_eq!((seen.as_slice(), fault.code()), (before.as_bytes(), FaultCode::ServiceReset));
    }
    let edge = FakeEdge::behaving(Behaviour::CutAfter(4));
    let body =
        edge.call(request(Body::full("one")), CallContext::new()).await.expect("an answer").into_body();
    assert_eq!(read(body).await.expect("what is shorter passes"), "one");
}

#[tokio::test]
async fn stalled_calls_go_on_when_released() {
    let edge = FakeEdge::behaving(Behaviour::Stall);
    let call = tokio::spawn({
        let edge = edge.clone();
        async move { read(edge.call(request(Body::full("one")), CallContext::new()).await?.into_body()).await }
    });
    edge.wait_in_flight(1).await;
    edge.release();
    assert_eq!(call.await.expect("no panic").expect("an answer"), "one");

    edge.behave(Behaviour::StallAfter(2));
    let body =
        edge.call(request(Body::full("two")), CallContext::new()).await.expect("an answer").into_body();
    let call = tokio::spawn(read(body));
    edge.wait_for("two bytes", |calls| calls[1].answer.bytes == 2).await;
    edge.release();
    assert_eq!(call.await.expect("no panic").expect("an answer"), "two");
}

#[tokio::test]
async fn a_lost_session_cuts_every_call_in_flight() {
    let edge = FakeEdge::behaving(Behaviour::Stall);
    let waiting = tokio::spawn({
        let edge = edge.clone();
        async move { edge.call(request(Body::empty()), CallContext::new()).await }
    });
    edge.wait_in_flight(1).await;
    edge.answer_with(|_, _| async { Ok(Response::new(feed_for_ever())) });
    let streaming =
        edge.call(request(Body::empty()), CallContext::new()).await.expect("an answer").into_body();
    edge.behave(Behaviour::Echo);
    let mut pipe = edge.open(destination(), CallContext::new()).await.expect("a pipe");
    edge.lose_session();
    assert_eq!(waiting.await.expect("no panic").expect_err("it was lost").code(), FaultCode::SessionLost);
    assert_eq!(read(streaming).await.expect_err("it was lost").code(), FaultCode::SessionLost);
    assert!(pipe.read_u8().await.is_err());
    assert!(pipe.write_u8(1).await.is_err());
    let later = edge.call(request(Body::full("one")), CallContext::new()).await.expect("an answer");
    assert_eq!(read(later.into_body()).await.expect("the session is back"), "one");
}

fn feed_for_ever() -> Body {
    let (feeder, body) = feed();
    body.with_guard(feeder)
}

#[tokio::test]
async fn leaving_is_recorded_before_and_within_the_answer() {
    let edge = FakeEdge::behaving(Behaviour::Stall);
    tokio::select! {
        biased; // the call is polled first
        _ = edge.call(request(Body::empty()), CallContext::new()) => panic!("it stalls"),
        _ = edge.wait_in_flight(1) => {}
    }
    edge.wait_cancelled(1).await;
    edge.behave(Behaviour::Echo);
    drop(edge.call(request(Body::full("one")), CallContext::new()).await);
    drop(edge.open(destination(), CallContext::new()).await);
    edge.wait_cancelled(3).await;
    assert_eq!(edge.in_flight(), 0);
}

#[tokio::test]
async fn a_dropped_feeder_has_cut_the_body() {
    let (feeder, body) = feed();
    feeder.send("one").await;
    drop(feeder);
    assert_eq!(read(body).await.expect_err("no end was said").code(), FaultCode::Cancelled);
}

#[tokio::test]
#[should_panic = "2 calls reach the edge: not within 10ms"]
async fn waits_have_a_bound() {
    let edge = FakeEdge::echo();
    with_patience(Duration::from_millis(10), edge.wait_calls(2)).await;
}

#[tokio::test]
async fn upgrades_and_expectations_are_met() {
    let edge = FakeEdge::echo();
    let mut upgrade = request(feed_for_ever());
    upgrade.headers_mut().insert("upgrade", HeaderValue::from_static("chat"));
    let answer = edge.call(upgrade, CallContext::new()).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!(answer.headers()["upgrade"], "chat");

    let (feeder, body) = feed();
    let mut expecting = request(body);
    expecting.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
    let call = edge.call(expecting, CallContext::new());
    let (answer, _) = tokio::join!(call, async {
        feeder.send("one").await;
        feeder.end();
    });
    assert_eq!(read(answer.expect("an answer").into_body()).await.expect("whole"), "one");
}

#[tokio::test]
async fn pipes_echo_more_than_they_buffer_and_end_on_both_sides() {
    let edge = FakeEdge::echo();
    let pipe = edge.open(destination(), CallContext::new()).await.expect("a pipe");
    let (mut reader, mut writer) = tokio::io::split(pipe);
    let sent = vec![7; 300_000];
    let mut read = Vec::new();
    let (written, _) = tokio::join!(
        async {
            writer.write_all(&sent).await?;
            writer.shutdown().await
        },
        reader.read_to_end(&mut read)
    );
    written.expect("all is written");
    assert!(read == sent);
    let call = &edge.calls()[0];
    assert_eq!(call.destination, Some(destination()));
    assert_eq!((call.answer.bytes, &call.answer.end), (300_000, &End::Complete));
}

#[tokio::test]
async fn nodes_are_selected_as_a_hub_does() {
    let edge = FakeEdge::echo();
    let mut berlin = NodeView::new("berlin-1".parse().expect("a name"), SystemTime::UNIX_EPOCH);
    berlin.labels.insert("site".into(), "berlin".into());
    let tokyo = NodeView::new("tokyo-1".parse().expect("a name"), SystemTime::UNIX_EPOCH);
    edge.set_nodes([berlin.clone(), tokyo.clone()]);
    let mut to = destination();
    assert_eq!(edge.nodes(&to), [berlin.clone(), tokyo.clone()]);
    to.nodes = NodeSelector { match_labels: berlin.labels.clone(), ..Default::default() };
    assert_eq!(edge.nodes(&to), [berlin]);
    to.nodes = NodeSelector { name: Some(tokyo.name.clone()), ..Default::default() };
    assert_eq!(edge.nodes(&to), [tokyo]);
}

#[tokio::test]
async fn a_fake_service_is_found_by_its_number_and_only_while_it_lives() {
    let edge = FakeEdge::echo();
    let section = json!({"edge": edge.id()});
    let agent = FakeAgent::<FakeServiceFactory>::load(section.clone()).await.expect("it lives");
    agent.edge().call(request(Body::empty()), CallContext::new()).await.expect("an answer");
    assert_eq!(edge.calls().len(), 1);
    let config = serde_json::from_value(json!({"edge": edge.id()})).expect("a section");
    let service = FakeServiceFactory::build(config).expect("it lives");
    service.open(CallContext::new()).await.expect("a pipe");
    assert_eq!(edge.calls().len(), 2);
    drop((agent, edge, service));
    assert!(FakeAgent::<FakeServiceFactory>::load(section).await.is_err());
}

#[tokio::test]
async fn a_tap_hands_out_the_edge_of_the_hub_that_runs_it() {
    let tap = Tap::new();
    let config = serde_json::from_value(json!({"id": tap.id()})).expect("a section");
    let plugin = TapFactory::build(config).expect("it lives");
    let (edge, stop) = (FakeEdge::echo(), tokio_util::sync::CancellationToken::new());
    let cx = PluginContext::new("tap", std::sync::Arc::new(edge.clone()), stop.clone(), |_| {});
    let run = tokio::spawn(async move { plugin.run(cx).await });
    let tapped = tap.edge().await;
    tapped.call(request(Body::empty()), CallContext::new()).await.expect("an answer");
    assert_eq!(edge.calls().len(), 1);
    stop.cancel();
    run.await.expect("no panic").expect("it stops");
}
