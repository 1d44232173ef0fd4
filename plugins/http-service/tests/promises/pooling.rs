//! Connections are reused, bounded, and let go.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use edgeway_plugin::Connector as _;
use edgeway_plugin::{FaultCode, Health};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn calls_one_after_the_other_share_a_connection() {
    let (listener, service) = http().await;
    let first = call(&service, get("/0"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    text(joined(first).await.unwrap()).await.unwrap();
    for (n, answer) in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 Oh\r\ncontent-length: 1\r\n\r\nx",
    ]
    .into_iter()
    .enumerate()
    {
        let next = call(&service, get(&format!("/{n}")));
        assert!(peer.head().await.starts_with(&format!("GET /{n} ")));
        peer.send(answer).await;
        text(joined(next).await.unwrap()).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_that_the_service_closes_in_order_is_not_used_again() {
    let (listener, service) = http().await;
    for _ in 0..5 {
        let call = call(&service, get("/"));
        let mut peer = accept(&listener).await;
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(text(joined(call).await.unwrap()).await.unwrap(), "ok");
        peer.rest().await;
    }
}

/// Every answer is followed by a close that was not announced, so that each call races it. What was written may be
/// lost, and says so; what was not is sent again; nothing runs twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_runs_twice_when_the_service_closes_idle_connections() {
    let (listener, service) = http().await;
    let ran = Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let served = tokio::spawn({
        let ran = Arc::clone(&ran);
        async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let ran = Arc::clone(&ran);
                tokio::spawn(async move {
                    let mut peer = Peer::new(stream);
                    let head = peer.head().await;
                    assert!(ran.lock().unwrap().insert(head.clone()), "ran twice: {head}");
                    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                });
            }
        }
    });
    let mut answered = 0;
    for n in 0..500 {
        match answer(&service, get(&format!("/{n}"))).await {
            Ok(response) => {
                assert_eq!(text(response).await.unwrap(), "ok");
                answered += 1;
            }
            Err(fault) => assert_eq!(fault.code(), FaultCode::ServiceReset, "{fault}"),
        }
    }
    assert!(answered > 100, "only {answered} of 500 were answered");
    assert!(ran.lock().unwrap().len() >= answered);
    served.abort();
}

/// The one case in which a call is sent again, step by step: the service has closed the idle connection, which nobody
/// has noticed when the call takes it from the pool, but the connection's own task has when it is about to write.
#[test]
fn a_call_of_which_nothing_was_written_is_sent_again() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (close, closing) = std::sync::mpsc::channel();
    let (closed, is_closed) = std::sync::mpsc::channel();
    let serving = std::thread::spawn(move || {
        let serve = |path: &str| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            assert!(head.starts_with(format!("GET {path} ").as_bytes()));
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            stream
        };
        let first = serve("/1");
        closing.recv().unwrap();
        drop(first);
        closed.send(()).unwrap();
        serve("/2");
    });
    // Events are looked for after each step of a task, so that the order below is the only one there is.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().event_interval(1).build().unwrap();
    runtime.block_on(async {
        let service = connector(json!({"url": url}));
        assert_eq!(answer(&service, get("/1")).await.unwrap().status(), 204);
        // Blocks the only thread: the close is in the kernel, and nobody has looked.
        close.send(()).unwrap();
        is_closed.recv().unwrap();
        // Runs before the connection's task, and events are looked for in between.
        tokio::spawn(async {});
        assert_eq!(answer(&service, get("/2")).await.unwrap().status(), 204);
    });
    serving.join().unwrap();
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let (listener, service) = listening("http", json!({"pool": {"idleTimeout": "50ms"}})).await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(call).await.unwrap();
    assert_eq!(peer.rest().await, (Vec::new(), Ended::Closed));
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_allowed() {
    for (allowed, kept) in [(0, 0), (1, 1)] {
        let (listener, service) = listening("http", json!({"pool": {"idle": allowed}})).await;
        let calls = [call(&service, get("/")), call(&service, get("/"))];
        let mut peers = [accept(&listener).await, accept(&listener).await];
        for peer in &mut peers {
            peer.head().await;
            peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
        for call in calls {
            joined(call).await.unwrap();
        }
        let closed = Arc::new(AtomicUsize::new(0));
        let watches = peers.map(|mut peer| {
            let closed = Arc::clone(&closed);
            tokio::spawn(async move {
                peer.rest().await;
                closed.fetch_add(1, Ordering::SeqCst);
            })
        });
        while closed.load(Ordering::SeqCst) < 2 - kept {
            in_time(tokio::task::yield_now()).await;
        }
        drop(service);
        for watch in watches {
            in_time(watch).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_call_over_the_limit_is_refused_at_once() {
    let (listener, service) = listening("http", json!({"limits": {"connections": 1}})).await;
    let busy = call(&service, get("/1"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    let fault = answer(&service, get("/2")).await.unwrap_err();
    assert_eq!(fault.code(), FaultCode::Overloaded);
    assert_eq!(fault.retry_after(), Some(std::time::Duration::from_secs(1)));
    // Once it is free again it serves.
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(busy).await.unwrap();
    let next = call(&service, get("/3"));
    assert!(peer.head().await.starts_with("GET /3 "));
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(next).await.unwrap();
}

#[tokio::test]
async fn a_call_that_was_dropped_gives_its_slot_back() {
    let (listener, service) = listening("http", json!({"limits": {"connections": 1}})).await;
    for _ in 0..3 {
        let left = call(&service, get("/"));
        let mut peer = accept(&listener).await;
        peer.head().await;
        left.abort();
        assert!(in_time(left).await.unwrap_err().is_cancelled());
        peer.rest().await;
    }
    let next = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(next).await.unwrap();
}

#[tokio::test]
async fn a_probe_tells_whether_somebody_listens() {
    let (listener, service) = http().await;
    assert_eq!(service.probe().await, Health::Ready);
    drop(listener);
    let Health::Failed(why) = service.probe().await else { panic!("nobody listens") };
    assert!(why.contains("refused"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_at_once_each_get_their_own_answer_on_few_connections() {
    let (listener, service) = http().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let serving = tokio::spawn({
        let connections = Arc::clone(&connections);
        async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut peer = Peer::new(stream);
                    // Ends, with a panic that nobody sees, when the connector closes the connection.
                    loop {
                        let head = peer.head().await;
                        let length = head.len();
                        peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{head}")).await;
                    }
                });
            }
        }
    });
    let callers: Vec<_> = (0..32)
        .map(|caller| {
            let service = Arc::clone(&service);
            tokio::spawn(async move {
                for n in 0..100 {
                    let path = format!("/{caller}/{n}");
                    let echo = text(answer(&service, get(&path)).await.unwrap()).await.unwrap();
                    assert!(echo.starts_with(&format!("GET {path} ")), "{echo}");
                }
            })
        })
        .collect();
    for caller in callers {
        in_time(caller).await.unwrap();
    }
    let connections = connections.load(Ordering::SeqCst);
    assert!(connections < 200, "{connections} connections for 32 callers");
    serving.abort();
}
