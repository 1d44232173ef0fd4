//! The promises of every connector.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by panicking")]

use edgeway_plugin::conformance::{self, LocalService, ServiceBehaviour, StartedService, Tally, TallyEntry};
use edgeway_tcp_service::TcpServiceFactory;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

struct Services;

impl LocalService for Services {
    const CALLS: bool = false;
    const PIPES: bool = true;

    async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let section = json!({"address": listener.local_addr().unwrap().to_string()});
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
        connections.spawn(echo(stream, behaviour, tally.begin()));
    }
}

/// Echoes as the behaviour demands. The entry is dropped when the connection is seen to close or break.
async fn echo(mut stream: TcpStream, behaviour: ServiceBehaviour, entry: TallyEntry) {
    let (mut left, cut) = match behaviour {
        ServiceBehaviour::StallAfter(length) => (length, false),
        ServiceBehaviour::CutAfter(length) => (length, true),
        ServiceBehaviour::Echo | ServiceBehaviour::Refuse => (usize::MAX, false),
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) if left > 0 => {
                entry.request_completed();
                if stream.shutdown().await.is_ok() {
                    entry.answered();
                }
                return;
            }
            Ok(0) | Err(_) => return,
            Ok(read) => read.min(left),
        };
        left -= read;
        if stream.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        if left == 0 && cut {
            // Closing now sends a reset.
            let _ = stream.set_zero_linger();
            entry.answered();
            return;
        }
    }
}

#[tokio::test]
async fn every_promise_of_a_connector_is_kept() {
    let verdict = conformance::connector::<TcpServiceFactory, _>(Services).await;
    // Calls are what it does not have.
    assert_eq!(verdict.skipped.len(), 7, "{verdict}");
    assert_eq!(verdict.kept.len(), 8, "{verdict}");
}
