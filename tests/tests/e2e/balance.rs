//! Which node a call goes to: by name, by label, by load; and to another one where the route allows a second run.

use crate::{
    raw::{self, Caller},
    service::Service,
    world::{Plan, eventually, http, within},
};

async fn named(name: &'static str) -> Service {
    Service::answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())).await
}

#[tokio::test]
async fn names_captures_and_labels_choose_the_node() {
    let (berlin, tokyo) = (named("berlin").await, named("tokyo").await);
    let plan = Plan {
        routes: "
- {name: fixed, plugin: rest, matches: [{path: {type: PathPrefix, value: /fixed}}], to: {service: s, nodes: {name: tokyo-1}}}
- {name: labelled, plugin: rest, matches: [{path: {type: PathPrefix, value: /labelled}}], to: {service: s, nodes: {matchLabels: {site: berlin-1}}}}
- {name: nobody, plugin: rest, matches: [{path: {type: PathPrefix, value: /nobody}}], to: {service: s, nodes: {matchLabels: {site: paris}}}}
- {name: captured, plugin: rest, matches: [{path: {type: Template, value: \"/at/{node}\"}}], to: {service: s, nodes: {name: \"{node}\"}}}
"
        .into(),
        ..Plan::default()
    };
    let world = plan
        .node("berlin-1", http("s", berlin.address))
        .node("tokyo-1", http("s", tokyo.address))
        .start()
        .await;
    for _ in 0..20 {
        assert_eq!(raw::get(world.rest, "/fixed").await.text(), "tokyo");
        assert_eq!(raw::get(world.rest, "/labelled").await.text(), "berlin");
        assert_eq!(raw::get(world.rest, "/at/berlin-1").await.text(), "berlin");
        assert_eq!(raw::get(world.rest, "/at/tokyo-1").await.text(), "tokyo");
    }
    raw::get(world.rest, "/nobody").await.assert_fault(503, "no_healthy_node");
    world.shutdown().await;
}

#[tokio::test]
async fn calls_go_to_the_node_with_fewer_in_flight() {
    let (busy, quick) = (Service::silent().await, named("quick").await);
    let world = Plan::default()
        .node("berlin-1", http("s", busy.address))
        .node("tokyo-1", http("s", quick.address))
        .start()
        .await;
    let mut held = Vec::new();
    for at in 1..=10 {
        let mut caller = Caller::connect(world.rest).await;
        caller.send("GET /nodes/berlin-1/s HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
        held.push(caller);
        eventually("the call is at the service", || busy.requests() == at).await;
    }
    for _ in 0..50 {
        assert_eq!(raw::get(world.rest, "/any/s").await.text(), "quick");
    }
    assert_eq!(busy.requests(), 10, "a call went to the busier node");
    world.shutdown().await;
}

#[tokio::test]
async fn equal_nodes_share_the_load() {
    let (one, other) = (named("one").await, named("other").await);
    let world = Plan::default()
        .node("berlin-1", http("s", one.address))
        .node("tokyo-1", http("s", other.address))
        .start()
        .await;
    for _ in 0..200 {
        assert_eq!(raw::get(world.rest, "/any/s").await.status, 200);
    }
    // Of 200 fair throws, fewer than 50 on one side have a chance of one in 10^13.
    assert!(one.requests() >= 50 && other.requests() >= 50, "{} and {}", one.requests(), other.requests());
    world.shutdown().await;
}

#[tokio::test]
async fn only_an_idempotent_route_turns_to_another_node() {
    let dies = Service::start(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let lives = named("lives").await;
    let plan = Plan {
        routes: "
- {name: once, plugin: rest, matches: [{path: {type: PathPrefix, value: /once}}], to: {service: s}}
- {name: again, plugin: rest, matches: [{path: {type: PathPrefix, value: /again}}], to: {service: s}, idempotent: true}
"
        .into(),
        ..Plan::default()
    };
    let world = plan
        .node("berlin-1", http("s", dies.address))
        .node("tokyo-1", http("s", lives.address))
        .start()
        .await;
    let before = dies.requests();
    for _ in 0..30 {
        assert_eq!(raw::get(world.rest, "/again").await.text(), "lives");
    }
    assert!(dies.requests() > before, "the broken node was never tried, so nothing was shown");
    let (before, mut refused) = (dies.requests(), 0);
    for _ in 0..30 {
        let answer = within("an answer", raw::get(world.rest, "/once")).await;
        if answer.status == 502 {
            answer.assert_fault(502, "service_reset");
            refused += 1;
        }
    }
    assert!(refused > 0 && dies.requests() == before + refused, "a call was sent twice");
    world.shutdown().await;
}
