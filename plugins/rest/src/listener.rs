//! One listener: accepts callers, bounds their number, owns their connections.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::connection::{self, Accepted, Shared};

/// Connections that the kernel holds for us until they are accepted; more are turned away by it.
const BACKLOG: u32 = 1024;

/// Connections beyond the limit that are told so, at once. More of them are closed without a word: to answer is work,
/// and this is when there is too much of it.
pub(crate) const REFUSALS: usize = 128;

/// How long to wait when the process has no file descriptor or memory left for another connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// How many connections may be there, shared by all listeners.
#[derive(Clone)]
pub(crate) struct Places {
    served: Arc<Semaphore>,
    refused: Arc<Semaphore>,
}

impl Places {
    pub(crate) fn new(connections: usize) -> Self {
        Self { served: Arc::new(Semaphore::new(connections)), refused: Arc::new(Semaphore::new(REFUSALS)) }
    }
}

/// Opens a listening socket.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Else the port of a hub that was just stopped stays blocked for a minute by its last connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A listener at work.
pub(crate) struct Listening {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) places: Places,
    pub(crate) shared: Arc<Shared>,
}

impl Listening {
    /// Accepts until `stop`, then waits for the last connection.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and every connection.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased; // stopping first; then places that are free again, before they are given away
                () = stop.cancelled() => break,
                Some(result) = connections.join_next() => log_panic(result),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, caller)) => self.take(stream, caller, &mut connections, &stop),
                    Err(error) if is_the_callers(&error) => {}
                    Err(error) => {
                        tracing::warn!(%error, "can't accept connections");
                        sleep(EXHAUSTED_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        while let Some(result) = connections.join_next().await {
            log_panic(result);
        }
    }

    fn take(
        &self,
        stream: TcpStream,
        caller: SocketAddr,
        connections: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        // Answers are written whole, so waiting for more of them only delays. Either call fails only on a socket that
        // the caller has closed by now.
        let Ok(local) = stream.set_nodelay(true).and_then(|()| stream.local_addr()) else { return };
        let (place, refused) = match self.places.served.clone().try_acquire_owned() {
            Ok(place) => (place, false),
            Err(_) => match self.places.refused.clone().try_acquire_owned() {
                Ok(place) => (place, true),
                Err(_) => return,
            },
        };
        let accepted = Accepted { stream, caller, local, tls: self.tls.clone(), refused };
        let longest = self.shared.settings.request_head;
        let serving = connection::serve(accepted, self.shared.clone(), stop.clone());
        let span = tracing::debug_span!("connection", %caller, refused);
        if refused {
            // It gets one answer, and no longer than that takes.
            connections.spawn(
                async move {
                    let _ = timeout(longest, serving).await;
                    drop(place);
                }
                .instrument(span),
            );
        } else {
            connections.spawn(
                async move {
                    serving.await;
                    drop(place);
                }
                .instrument(span),
            );
        }
    }
}

/// Whether an error of `accept` is about the one connection, which is gone, and not about us (accept(2)).
fn is_the_callers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

fn log_panic(result: Result<(), JoinError>) {
    if let Err(error) = result
        && error.is_panic()
    {
        tracing::error!(%error, "a connection panicked");
    }
}
