//! T1, T2, T4, T5, T11 and T12, invariants 3, 4, 7 and 8: sessions come, go, take over and end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use edgeway_proto::{HubName, NodeName, TrustDomain};
use edgeway_tunnel::{
    identity::{Authority, Identity},
    transport::{Budgets, Dialler},
};
use tokio::net::UdpSocket;

use crate::{
    raw::{self, Caller},
    relay::Relay,
    service::Service,
    world::{ECHO, Plan, TRUST_DOMAIN, World, eventually, http, within, write_identity},
};

async fn assert_serving(world: &World) {
    let answer = raw::post(world.rest, "/nodes/berlin-1/echo", b"still here").await;
    assert_eq!((answer.status, answer.text()), (200, "still here"));
}

#[tokio::test]
async fn garbage_on_the_tunnel_port_changes_nothing() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    for size in [0, 1, 20, 1200, 1400, 9000] {
        for first in [0x00, 0x40, 0xc0, 0xff] {
            let mut garbage: Vec<u8> = (0..size).map(|_| rand::random()).collect();
            if let Some(byte) = garbage.first_mut() {
                *byte = first;
            }
            socket.send_to(&garbage, world.tunnel).await.expect("sent");
        }
    }
    assert_serving(&world).await;
    assert!(world.agent("berlin-1").is_connected());
    world.shutdown().await;
}

/// Dials with an identity and returns whether the hub took it for a session's link.
async fn is_let_in(world: &World, identity: Identity) -> bool {
    let dialler = Dialler::bind(Arc::new(identity), &Budgets::default(), false).expect("a socket");
    let Ok((link, _)) = within("the handshake ends", dialler.dial(world.tunnel, "localhost")).await else {
        return false;
    };
    // TLS 1.3 tells a refused certificate only after the dialling side has finished.
    let hello = edgeway_proto::wire::Hello::default();
    within("the session opens or not", edgeway_tunnel::session::open_session(&link, &hello)).await.is_ok()
}

#[tokio::test]
async fn only_a_node_of_the_right_authority_and_domain_is_let_in() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let domain = TrustDomain::new(TRUST_DOMAIN).expect("a domain");
    let other_domain = TrustDomain::new("other.test").expect("a domain");
    let node = NodeName::new("tokyo-1").expect("a name");
    let load = |authority: &Authority, issued: edgeway_tunnel::identity::Issued, file: &str| {
        let directory = world.path(file);
        write_identity(&directory, "node", authority, &issued.certificate_pem, &issued.key_pem);
        // The dialling side trusts our hub; what it shows is another matter.
        std::fs::write(directory.join("ca.crt"), world.authority.certificate_pem()).expect("written");
        directory
    };

    let ours = load(&world.authority, world.authority.issue_node(&node).expect("issued"), "ours");
    assert!(is_let_in(&world, Identity::load_node(&ours, &domain).expect("an identity").0).await);

    let stranger = Authority::generate(&domain).expect("an authority");
    let foreign = load(&stranger, stranger.issue_node(&node).expect("issued"), "foreign");
    assert!(!is_let_in(&world, Identity::load_node(&foreign, &domain).expect("an identity").0).await);

    let stranger = Authority::generate(&other_domain).expect("an authority");
    let elsewhere = load(&stranger, stranger.issue_node(&node).expect("issued"), "elsewhere");
    assert!(!is_let_in(&world, Identity::load_node(&elsewhere, &other_domain).expect("an identity").0).await);

    let hub = HubName::new("hub-2").expect("a name");
    let issued = world.authority.issue_hub(&hub, &["localhost".into()]).expect("issued");
    let directory = world.path("hub-2");
    write_identity(&directory, "hub", &world.authority, &issued.certificate_pem, &issued.key_pem);
    let posing = Identity::load_hub(&directory, &domain).expect("an identity").0;
    assert!(!is_let_in(&world, posing).await, "a hub's certificate opened a node's session");

    world
        .until("only berlin-1 and tokyo-1 were ever seen", |nodes| {
            nodes.iter().all(|node| ["berlin-1", "tokyo-1"].contains(&node.name.as_str()))
        })
        .await;
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_peer_without_a_certificate_or_with_another_protocol_is_refused() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let domain = TrustDomain::new(TRUST_DOMAIN).expect("a domain");
    for (alpn, certified) in [(&b"edgeway/1"[..], false), (b"h3", true), (b"edgeway/2", true)] {
        let authority = rustls_roots(&world.authority);
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(authority);
        let mut tls = if certified {
            let (certificate, key) = pem_pair(&world, "tokyo-1");
            builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
        } else {
            builder.with_no_client_auth()
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("TLS 1.3");
        let endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a socket");
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let connecting = endpoint.connect_with(config, world.tunnel, "localhost").expect("a valid name");
        let refused = async {
            match connecting.await {
                Err(_) => {}
                // The refusal comes after the dialling side's own end of the handshake.
                Ok(connection) => drop(connection.closed().await),
            }
        };
        within("the hub refuses", refused).await;
    }
    assert!(world.hub().nodes().iter().all(|node| node.name.as_str() == "berlin-1"));
    let _ = domain;
    assert_serving(&world).await;
    world.shutdown().await;
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn rustls_roots(authority: &Authority) -> rustls::RootCertStore {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).expect("PEM");
    roots.add(certificate).expect("a certificate");
    roots
}

fn pem_pair(
    world: &World,
    node: &str,
) -> (rustls::pki_types::CertificateDer<'static>, rustls::pki_types::PrivateKeyDer<'static>) {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let directory = world.identity_of(node);
    let certificate = CertificateDer::from_pem_file(directory.join("node.crt")).expect("PEM");
    (certificate, PrivateKeyDer::from_pem_file(directory.join("node.key")).expect("PEM"))
}

#[tokio::test]
async fn the_newest_session_of_a_node_wins_and_the_older_ones_end_removes_nothing() {
    let old = Service::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold").await;
    let new = Service::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew").await;
    let mut world = Plan::default().node("berlin-1", http("s", old.address)).start().await;
    assert_eq!(raw::get(world.rest, "/any/s").await.text(), "old");
    // A second machine with a copy of the certificate: it dials later, so it is the node now.
    let second = world.start_agent("berlin-1", &http("s", new.address), "").await;
    let admin = world.hub().admin_address().expect("an admin page");
    within("the newer one answers", async { while raw::get(world.rest, "/any/s").await.text() != "new" {} })
        .await;
    let replaced = r#"edgeway_hub_sessions_ended_total{cause="replaced"}"#;
    within("the older one is told that it was replaced", async {
        while world.metric(admin, replaced).await < 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // One that is not current any more may end as late as it likes.
    drop(world.take_agent("berlin-1"));
    world.until_served("berlin-1", "s").await;
    assert_eq!(world.hub().nodes().len(), 1);
    second.shutdown().await;
    world.until("berlin-1 is offline", |nodes| nodes.iter().all(|node| !node.connected)).await;
    world.shutdown().await;
}

#[tokio::test]
async fn an_agent_is_back_after_the_hub_was_away() {
    let mut world = Plan::default().node("berlin-1", ECHO).start().await;
    for _ in 0..2 {
        within("the hub stops", world.take_hub().shutdown()).await;
        within("the agent notices", world.agent("berlin-1").wait_disconnected()).await;
        world.start_hub().await;
        world.until_served("berlin-1", "echo").await;
    }
    world.shutdown().await;
}

#[tokio::test]
async fn an_agent_turns_to_the_next_hub() {
    let dead = UdpSocket::bind("127.0.0.1:0").await.expect("a port that never answers");
    let first = Plan::default().node("berlin-1", ECHO).start().await;
    let relay = Relay::to(first.tunnel).await;
    drop(relay);
    let identity = first.identity_of("tokyo-1");
    let config = format!(
        "apiVersion: edgeway.dev/v1alpha1
kind: AgentConfig
hubs: [\"nothing.invalid:7443\", \"127.0.0.1:{closed}\", \"127.0.0.1:{hub}\"]
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {identity}}}
admin: {{enabled: false}}
services: [{{name: echo, echo: {{}}}}]
",
        closed = dead.local_addr().expect("an address").port(),
        hub = first.tunnel.port(),
        identity = identity.display(),
    );
    drop(dead);
    let file = first.path("agent.yaml");
    std::fs::write(&file, config).expect("written");
    let agent = edge_agent::Agent::builder().with_builtin_connectors().load(&file);
    let agent = agent.unwrap_or_else(|report| panic!("{report}")).start().await.expect("it starts");
    // The dead addresses may take a handshake's whole patience each.
    let connected = tokio::time::timeout(Duration::from_secs(60), agent.wait_connected());
    connected.await.expect("the agent finds the hub that lives");
    first.until_served("tokyo-1", "echo").await;
    agent.shutdown().await;
    first.shutdown().await;
}

#[tokio::test]
async fn a_dead_link_is_noticed_by_both_ends_and_heals_unattended() {
    let plan = Plan { tunnel: "keepAlive: 200ms, idleTimeout: 1s".into(), ..Plan::default() };
    let world = plan.start().await;
    let relay = Relay::to(world.tunnel).await;
    let uplink = "uplink: {keepAlive: 200ms, idleTimeout: 1s, backoff: {min: 50ms, max: 300ms}}";
    let agent = world.start_agent_at(relay.address, "berlin-1", ECHO, uplink).await;
    world.until_served("berlin-1", "echo").await;

    relay.set_open(false);
    let began = Instant::now();
    within("the agent notices", agent.wait_disconnected()).await;
    world.until("the hub notices", |nodes| nodes.iter().all(|node| !node.connected)).await;
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    raw::get(world.rest, "/nodes/berlin-1/echo").await.assert_fault(503, "node_offline");

    relay.set_open(true);
    world.until_served("berlin-1", "echo").await;
    agent.shutdown().await;
    world.shutdown().await;
}

#[tokio::test]
async fn an_idle_session_lives_on_its_heartbeats() {
    let plan = Plan { tunnel: "keepAlive: 100ms, idleTimeout: 500ms".into(), ..Plan::default() };
    let world = plan.start().await;
    let relay = Relay::to(world.tunnel).await;
    let uplink = "uplink: {keepAlive: 100ms, idleTimeout: 500ms}";
    let agent = world.start_agent_at(relay.address, "berlin-1", ECHO, uplink).await;
    world.until_served("berlin-1", "echo").await;
    let since = world.hub().nodes()[0].since;
    let passed = relay.passed();
    eventually("heartbeats pass", || relay.passed() > passed + 20).await;
    assert!(agent.is_connected());
    assert_eq!(world.hub().nodes()[0].since, since, "the session is another one");
    agent.shutdown().await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_change_of_the_agents_address_keeps_the_session() {
    let world = Plan::default().start().await;
    let relay = Relay::to(world.tunnel).await;
    let agent = world.start_agent_at(relay.address, "berlin-1", ECHO, "").await;
    world.until_served("berlin-1", "echo").await;
    let since = world.hub().nodes()[0].since;
    for _ in 0..3 {
        relay.rebind();
        // The hub can't know the new address before something comes from it.
        within("calls pass again", async {
            loop {
                let call = raw::post(world.rest, "/nodes/berlin-1/echo", b"moved");
                if let Ok(answer) = tokio::time::timeout(Duration::from_secs(6), call).await {
                    assert_eq!(answer.text(), "moved");
                    return;
                }
            }
        })
        .await;
    }
    assert_eq!(world.hub().nodes()[0].since, since, "the session is another one");
    agent.shutdown().await;
    world.shutdown().await;
}

/// A service whose answers wait until the test lets them go.
async fn held() -> (Service, tokio::sync::watch::Sender<bool>) {
    let (go, gone) = tokio::sync::watch::channel(false);
    let service = Service::start(move |mut connection| {
        let mut gone = gone.clone();
        async move {
            while connection.request().await.is_some() {
                let _ = gone.wait_for(|gone| *gone).await;
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await;
            }
        }
    })
    .await;
    (service, go)
}

#[tokio::test]
async fn a_hub_that_stops_finishes_what_runs_and_takes_nothing_new() {
    let (service, go) = held().await;
    let mut world = Plan::default().node("berlin-1", http("held", service.address)).start().await;
    let rest = world.rest;
    let mut running = Caller::connect(rest).await;
    running.send("GET /any/held HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    let mut idle = Caller::connect(rest).await;
    idle.send("GET /nowhere HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    assert_eq!(idle.answer().await.expect("an answer").status, 404);
    eventually("the call is at the service", || service.requests() == 1).await;
    let admin = world.hub().admin_address().expect("an admin page");
    assert_eq!(raw::get(admin, "/readyz").await.status, 200);
    let stopping = tokio::spawn(world.take_hub().shutdown());
    within("readiness goes false", async {
        while raw::get(admin, "/readyz").await.status != 503 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // Whoever comes now is refused: with a status, or at the door.
    if let Ok(stream) = tokio::net::TcpStream::connect(rest).await {
        drop(stream);
        let mut late = Caller::connect(rest).await;
        let _ = tokio::io::AsyncWriteExt::write_all(
            &mut late.stream,
            b"GET /any/held HTTP/1.1\r\nHost: e2e\r\n\r\n",
        )
        .await;
        if let Some(answer) = late.answer().await {
            assert_eq!(answer.status, 503, "{answer:?}");
        }
    }
    assert!(!stopping.is_finished(), "it did not wait for the call that runs");
    go.send_replace(true);
    assert_eq!(running.answer().await.expect("an answer").text(), "done");
    within("the hub stops", stopping).await.expect("no panic");
    assert_eq!(service.requests(), 1);
    world.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_stops_finishes_what_runs_and_others_take_the_rest() {
    let (service, go) = held().await;
    let mut world = Plan::default().node("berlin-1", http("s", service.address)).start().await;
    let mut running = Caller::connect(world.rest).await;
    running.send("GET /any/s HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    eventually("the call is at the service", || service.requests() == 1).await;
    let quick = Service::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nother").await;
    let other = world.start_agent("tokyo-1", &http("s", quick.address), "").await;
    let stopping = tokio::spawn(world.take_agent("berlin-1").shutdown());
    within("new calls go to the other node", async {
        let mut in_a_row = 0;
        while in_a_row < 20 {
            let answer =
                tokio::time::timeout(Duration::from_millis(500), raw::get(world.rest, "/any/s")).await;
            in_a_row = if answer.is_ok_and(|answer| answer.text() == "other") { in_a_row + 1 } else { 0 };
        }
    })
    .await;
    assert!(!stopping.is_finished(), "it did not wait for the call that runs");
    go.send_replace(true);
    assert_eq!(running.answer().await.expect("an answer").text(), "done");
    within("the agent stops", stopping).await.expect("no panic");
    other.shutdown().await;
    world.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_stops_delivers_what_it_has_begun_to_the_last_byte() {
    const SIZE: usize = 20_000_000;
    let fountain = Service::start(|mut connection| async move {
        connection.request().await;
        connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")).await;
        let piece = vec![b'x'; 100_000];
        for _ in 0..SIZE / piece.len() {
            connection.send(&piece).await;
        }
    })
    .await;
    for round in 1..=3 {
        let mut world = Plan::default().node("berlin-1", http("fountain", fountain.address)).start().await;
        let mut caller = Caller::connect(world.rest).await;
        caller.send("GET /any/fountain HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
        eventually("the call is at the service", || fountain.requests() == round).await;
        // What the service has sent is in the agent's buffers, and more of it when the agent is told to stop.
        let stopping = tokio::spawn(world.take_agent("berlin-1").shutdown());
        assert_eq!(caller.answer().await.expect("an answer").body.len(), SIZE);
        within("the agent stops", stopping).await.expect("no panic");
        world.shutdown().await;
    }
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let (service, _go) = held().await;
    let plan = Plan { drain: Duration::from_millis(300), ..Plan::default() };
    let mut world = plan.node("berlin-1", http("held", service.address)).start().await;
    let mut running = Caller::connect(world.rest).await;
    running.send("GET /any/held HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    eventually("the call is at the service", || service.requests() == 1).await;
    let began = Instant::now();
    within("the hub stops", world.take_hub().shutdown()).await;
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    if let Some(answer) = running.answer().await {
        assert!(answer.status >= 500, "{answer:?}");
    }
    world.shutdown().await;
}

#[test]
fn after_shutdown_no_task_remains() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let alive = || runtime.metrics().num_alive_tasks();
    runtime.block_on(async {
        let silent = Service::silent().await;
        let before = alive();
        let services = [ECHO.to_owned(), http("silent", silent.address)].concat();
        let plan = Plan { drain: Duration::from_millis(100), ..Plan::default() };
        let world = plan.node("berlin-1", services.clone()).node("tokyo-1", services).start().await;
        let mut callers = Vec::new();
        for at in 0..50 {
            let mut caller = Caller::connect(world.rest).await;
            let service = if at % 2 == 0 { "silent" } else { "echo" };
            caller.send(format!("GET /any/{service} HTTP/1.1\r\nHost: e2e\r\n\r\n")).await;
            callers.push(caller);
        }
        assert!(alive() > before + 4, "the count says nothing");
        world.shutdown().await;
        drop(callers);
        // What is left is the scripted service's.
        eventually("no task remains", || alive() <= before).await;
    });
}

#[tokio::test]
async fn the_cause_of_every_sessions_end_is_counted() {
    let mut world = Plan::default().node("berlin-1", ECHO).start().await;
    world.take_agent("berlin-1").shutdown().await;
    let admin = world.hub().admin_address().expect("an admin page");
    within("the end is counted", async {
        let series = r#"edgeway_hub_sessions_ended_total{cause="drained"}"#;
        while world.metric(admin, series).await != 1.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    world.shutdown().await;
}
