//! C6: faults are told apart, and from a service's own answers. T8: limits answer at once.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::net::TcpListener;

use crate::{
    raw::{self, Caller},
    service::Service,
    world::{ECHO, Plan, eventually, http, within},
};

/// A port at which nothing listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address")
}

#[tokio::test]
async fn what_is_not_there_is_404_and_says_what() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    raw::get(world.rest, "/nowhere").await.assert_fault(404, "no_route");
    raw::get(world.rest, "/nodes/tokyo-9/echo").await.assert_fault(404, "unknown_node");
    raw::get(world.rest, "/nodes/berlin-1/nothing").await.assert_fault(404, "unknown_service");
    // Captures that can't be names at all.
    raw::get(world.rest, "/nodes/BERLIN_1/echo").await.assert_fault(404, "unknown_node");
    raw::get(world.rest, "/nodes/%62erlin-1/echo").await.assert_fault(404, "unknown_node");
    raw::get(world.rest, "/nodes/berlin-1/%00").await.assert_fault(404, "unknown_service");
    world.shutdown().await;
}

#[tokio::test]
async fn a_node_that_left_is_offline_and_since_when() {
    let mut world = Plan::default().node("berlin-1", ECHO).start().await;
    world.take_agent("berlin-1").shutdown().await;
    world.until("berlin-1 is offline", |nodes| nodes.iter().all(|node| !node.connected)).await;
    let answer = raw::get(world.rest, "/nodes/berlin-1/echo").await;
    answer.assert_fault(503, "node_offline");
    let since = answer.json()["since"].as_str().expect("since when").to_owned();
    assert!(since.starts_with("20") && since.ends_with('Z'), "{since}");
    raw::get(world.rest, "/any/echo").await.assert_fault(503, "no_healthy_node");
    world.shutdown().await;
}

#[tokio::test]
async fn a_service_that_refuses_or_breaks_off_is_502() {
    let broken = |bytes: &'static [u8]| {
        Service::start(move |mut connection| async move {
            connection.request().await;
            connection.send(bytes).await;
        })
    };
    let (silent, half, garbage) = (
        broken(b"").await,
        broken(b"HTTP/1.1 200 OK\r\nconte").await,
        broken(b"\x00\x01garbage\r\n\r\n").await,
    );
    let services = [
        http("refuses", nobody().await),
        http("silent", silent.address),
        http("half", half.address),
        http("garbage", garbage.address),
    ];
    let world = Plan::default().node("berlin-1", services.concat()).start().await;
    raw::get(world.rest, "/any/refuses").await.assert_fault(502, "service_refused");
    for service in ["silent", "half", "garbage"] {
        raw::get(world.rest, &format!("/any/{service}")).await.assert_fault(502, "service_reset");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn a_deadline_is_504_in_time_and_names_the_leg() {
    let service = Service::silent().await;
    let plan = Plan {
        routes: "
- {name: short, plugin: rest, matches: [{path: {type: PathPrefix, value: /}}], to: {service: slow}, timeouts: {request: 400ms}}
"
        .into(),
        ..Plan::default()
    };
    let world = plan.node("berlin-1", http("slow", service.address)).start().await;
    let began = Instant::now();
    let answer = raw::get(world.rest, "/").await;
    answer.assert_fault(504, "deadline");
    assert_eq!(answer.json()["leg"], "service");
    assert!(began.elapsed() >= Duration::from_millis(390), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    world.shutdown().await;
}

#[tokio::test]
async fn a_request_over_the_limit_is_413_whether_its_length_is_known_or_not() {
    let plan = Plan { rest: "limits: {requestBody: 1KiB}".into(), ..Plan::default() };
    let world = plan.node("berlin-1", ECHO).start().await;
    raw::post(world.rest, "/any/echo", &[0; 1025]).await.assert_fault(413, "request_too_large");
    assert_eq!(raw::post(world.rest, "/any/echo", &[0; 1024]).await.status, 200);

    let silent = Service::silent().await;
    let agent = world.start_agent("tokyo-1", &http("silent", silent.address), "").await;
    let mut caller = Caller::connect(world.rest).await;
    caller.send("POST /any/silent HTTP/1.1\r\nHost: e2e\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..3 {
        caller.send(format!("200\r\n{}\r\n", "x".repeat(512))).await;
    }
    caller.answer().await.expect("an answer").assert_fault(413, "request_too_large");
    agent.shutdown().await;
    world.shutdown().await;
}

#[tokio::test]
async fn at_a_limit_of_node_route_or_service_the_caller_hears_503_at_once() {
    let service = Service::silent().await;
    let routes = "
- {name: narrow, plugin: rest, matches: [{path: {type: PathPrefix, value: /narrow}}], to: {service: s}, limits: {calls: 2}}
- {name: wide, plugin: rest, matches: [{path: {type: PathPrefix, value: /wide}}], to: {service: s}}
";
    for (tunnel, agent, path) in [
        ("", "", "/narrow"),
        ("limits: {callsPerNode: 2}", "", "/wide"),
        ("limits: {callsPerPlugin: 2}", "", "/wide"),
        ("", "limits: {calls: 2}", "/wide"),
        ("", "limits: {callsPerService: 2}", "/wide"),
    ] {
        let plan = Plan { tunnel: tunnel.into(), routes: routes.into(), ..Plan::default() };
        let before = service.requests();
        let world = plan.node_with("berlin-1", http("s", service.address), agent).start().await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut caller = Caller::connect(world.rest).await;
            caller.send(format!("GET {path} HTTP/1.1\r\nHost: e2e\r\n\r\n")).await;
            held.push(caller);
        }
        eventually("two calls are at the service", || service.requests() == before + 2).await;
        let began = Instant::now();
        let answer = raw::get(world.rest, path).await;
        answer.assert_fault(503, "overloaded");
        assert!(answer.header("retry-after").parse::<u32>().is_ok_and(|after| after >= 1), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(2), "{tunnel}{agent}: not at once");
        // Room again as soon as a caller leaves.
        drop(held);
        within("a call gets through", async {
            let mut caller = Caller::connect(world.rest).await;
            loop {
                let seen = service.requests();
                caller.send(format!("GET {path} HTTP/1.1\r\nHost: e2e\r\n\r\n")).await;
                let refused = tokio::time::timeout(Duration::from_millis(300), caller.answer());
                match refused.await {
                    Ok(Some(answer)) => answer.assert_fault(503, "overloaded"),
                    _ if service.requests() > seen => return,
                    _ => {}
                }
                caller = Caller::connect(world.rest).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_fault_storm_leaves_hub_and_agent_serving() {
    let service = Service::start(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let services = [ECHO.to_owned(), http("broken", service.address)].concat();
    let world = Plan::default().node("berlin-1", services).start().await;
    for _ in 0..300 {
        raw::get(world.rest, "/any/broken").await.assert_fault(502, "service_reset");
    }
    assert_eq!(raw::post(world.rest, "/any/echo", b"still here").await.text(), "still here");
    let admin = world.hub().admin_address().expect("an admin page");
    let series = r#"edgeway_hub_faults_total{plugin="rest",route="any",code="service_reset"}"#;
    assert_eq!(world.metric(admin, series).await, 300.0);
    world.shutdown().await;
}
