//! C5 and C7, invariants 1 and 2: how calls end. A truncated body is never complete, a caller that leaves is noticed
//! everywhere, and no service runs twice for one call.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::io::AsyncWriteExt;

use crate::{
    raw::{self, Caller},
    service::Service,
    world::{ECHO, Plan, eventually, http, within},
};

#[tokio::test]
async fn an_answer_that_the_service_cuts_is_never_complete() {
    for head in ["content-length: 100000", "transfer-encoding: chunked"] {
        for sent in [0, 1, 5000] {
            let service = Service::start(move |mut connection| async move {
                connection.request().await;
                connection.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n")).await;
                if head.starts_with("transfer") {
                    connection.send(format!("{:x}\r\n", 100_000)).await;
                }
                connection.send(vec![b'x'; sent]).await;
            })
            .await;
            let world = Plan::default().node("berlin-1", http("cut", service.address)).start().await;
            let answer = raw::get(world.rest, "/any/cut").await;
            // Told before the head went out, it is a fault; after it, the framing must not end.
            if answer.status == 200 {
                assert!(!answer.complete, "{head}, {sent} bytes: reported complete");
                assert!(answer.body.len() <= sent);
            } else {
                answer.assert_fault(502, "service_reset");
            }
            assert_eq!(raw::get(world.rest, "/nowhere").await.status, 404, "the hub lives on");
        }
    }
}

#[tokio::test]
async fn a_request_that_the_caller_cuts_is_never_complete_at_the_service() {
    let whole = Arc::new(AtomicUsize::new(0));
    let ended = Arc::new(AtomicUsize::new(0));
    let (counts, ends) = (whole.clone(), ended.clone());
    let service = Service::start(move |mut connection| {
        let (whole, ended) = (counts.clone(), ends.clone());
        async move {
            if connection.request().await.is_some() {
                whole.fetch_add(1, Ordering::AcqRel);
            }
            ended.fetch_add(1, Ordering::AcqRel);
        }
    })
    .await;
    let world = Plan::default().node("berlin-1", http("sink", service.address)).start().await;
    let mut cuts = 0;
    for (framing, body) in [
        ("Content-Length: 100000", "x".repeat(5000)),
        ("Transfer-Encoding: chunked", format!("1388\r\n{}\r\n", "x".repeat(5000))),
    ] {
        for hard in [false, true] {
            let mut caller = Caller::connect(world.rest).await;
            caller.send(format!("POST /any/sink HTTP/1.1\r\nHost: e2e\r\n{framing}\r\n\r\n{body}")).await;
            cuts += 1;
            eventually("the request is at the service", || service.requests() == cuts).await;
            if hard {
                caller.stream.set_zero_linger().expect("an open socket");
            }
            drop(caller);
            eventually("the service sees the end", || ended.load(Ordering::Acquire) == cuts).await;
        }
    }
    assert_eq!(whole.load(Ordering::Acquire), 0, "a truncated request was passed on as complete");
    world.shutdown().await;
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_the_call_at_the_service() {
    let gone = Arc::new(AtomicUsize::new(0));
    let seen = gone.clone();
    let service = Service::start(move |mut connection| {
        let gone = seen.clone();
        async move {
            let Some(head) = connection.head().await else { return };
            if head.contains(" /answering") {
                connection.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nsome").await;
            }
            connection.gone().await;
            gone.fetch_add(1, Ordering::AcqRel);
        }
    })
    .await;
    let world = Plan::default().node("berlin-1", http("held", service.address)).start().await;

    let mut caller = Caller::connect(world.rest).await;
    caller.send("GET /any/held/waiting HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    eventually("the call is at the service", || service.requests() == 1).await;
    drop(caller);
    eventually("the service sees the caller leave while it waits", || gone.load(Ordering::Acquire) == 1)
        .await;

    let mut caller = Caller::connect(world.rest).await;
    caller.send("GET /any/held/answering HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    caller.until(b"some").await;
    drop(caller);
    eventually("the service sees the caller leave while it reads", || gone.load(Ordering::Acquire) == 2)
        .await;
    world.until("no call is left in flight", |nodes| nodes.iter().all(|node| node.in_flight == 0)).await;
    world.shutdown().await;
}

#[tokio::test]
async fn an_early_answer_passes_while_the_request_is_still_sent() {
    let service = Service::start(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
        connection.gone().await;
    })
    .await;
    let world = Plan::default().node("berlin-1", http("early", service.address)).start().await;
    let mut caller = Caller::connect(world.rest).await;
    caller.send("POST /any/early HTTP/1.1\r\nHost: e2e\r\nContent-Length: 10000000\r\n\r\nstart").await;
    assert_eq!(caller.answer().await.expect("an answer").text(), "early");
    world.shutdown().await;
}

#[tokio::test]
async fn a_refusal_passes_while_the_service_reads_no_byte_of_a_large_request() {
    let service = Service::start(|mut connection| async move {
        connection.head().await;
        connection.send("HTTP/1.1 403 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno").await;
        let _ = connection.stream.shutdown().await;
    })
    .await;
    let world = Plan::default().node("berlin-1", http("strict", service.address)).start().await;
    let caller = Caller::connect(world.rest).await;
    let (mut reading, mut writing) = caller.stream.into_split();
    let sending = tokio::spawn(async move {
        let head = "POST /any/strict HTTP/1.1\r\nHost: e2e\r\nContent-Length: 50000000\r\n\r\n";
        writing.write_all(head.as_bytes()).await?;
        let piece = vec![0; 100_000];
        for _ in 0..500 {
            writing.write_all(&piece).await?;
        }
        std::io::Result::Ok(())
    });
    let mut head = [0; 12];
    within("the refusal", tokio::io::AsyncReadExt::read_exact(&mut reading, &mut head))
        .await
        .expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 403");
    drop(reading);
    let _ = within("the caller is let go", sending).await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_call_that_a_service_may_have_run_is_not_run_again() {
    let service = Service::start(|mut connection| async move {
        // It took the request and died over it.
        connection.request().await;
    })
    .await;
    let world = Plan::default().node("berlin-1", http("once", service.address)).start().await;
    // A second node with the same service, to which a careless hub could turn.
    let other = world.start_agent("tokyo-1", &http("once", service.address), "").await;
    for call in 1..=20 {
        raw::post(world.rest, "/any/once", b"charge 5 EUR").await.assert_fault(502, "service_reset");
        assert_eq!(service.requests(), call, "the service ran twice for one call");
    }
    other.shutdown().await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_kept_connection_that_the_service_closed_fails_no_call() {
    // Closes each connection right after its answer without saying so: the race that every pool has.
    let service = Service::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let world = Plan::default().node("berlin-1", http("curt", service.address)).start().await;
    let mut resets = 0;
    for _ in 0..200 {
        let answer = raw::get(world.rest, "/any/curt").await;
        if answer.status == 502 {
            // Written and lost at the same moment: nobody can know, so the caller is told.
            answer.assert_fault(502, "service_reset");
            resets += 1;
        } else {
            assert_eq!(answer.text(), "ok");
        }
    }
    assert!(resets <= 20, "{resets} of 200 calls met a dead connection");
    world.shutdown().await;
}

#[tokio::test]
async fn a_session_lost_in_the_middle_is_told_and_never_taken_for_an_end() {
    let service = Service::start(|mut connection| async move {
        let Some(head) = connection.head().await else { return };
        if head.contains(" /started") {
            connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n").await;
        }
        connection.gone().await;
    })
    .await;
    let plan = Plan { drain: std::time::Duration::ZERO, ..Plan::default() };
    let mut world = plan.node("berlin-1", http("held", service.address)).start().await;
    let mut waiting = Caller::connect(world.rest).await;
    waiting.send("GET /any/held/waiting HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    let mut started = Caller::connect(world.rest).await;
    started.send("GET /any/held/started HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    assert_eq!(started.head().await.expect("a head").status, 200);
    eventually("both calls are at the service", || service.requests() == 2).await;
    // The agent's process is gone, as after a crash.
    drop(world.take_agent("berlin-1"));
    waiting.answer().await.expect("an answer").assert_fault(502, "session_lost");
    let rest = started.rest().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a cut answer was ended: {:?}", String::from_utf8_lossy(&rest));
    world.shutdown().await;
}

#[tokio::test]
async fn a_deadline_lets_go_of_the_service() {
    let let_go = Arc::new(AtomicBool::new(false));
    let seen = let_go.clone();
    let service = Service::start(move |mut connection| {
        let let_go = seen.clone();
        async move {
            connection.request().await;
            connection.gone().await;
            let_go.store(true, Ordering::Release);
        }
    })
    .await;
    let plan = Plan {
        routes: "
- {name: short, plugin: rest, matches: [{path: {type: PathPrefix, value: /}}], to: {service: slow}, timeouts: {request: 200ms}}
"
        .into(),
        ..Plan::default()
    };
    let services = [ECHO.to_owned(), http("slow", service.address)].concat();
    let world = plan.node("berlin-1", services).start().await;
    raw::get(world.rest, "/").await.assert_fault(504, "deadline");
    eventually("the connection to the service is closed", || let_go.load(Ordering::Acquire)).await;
    world.shutdown().await;
}
