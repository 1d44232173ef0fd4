//! Listening and dialling.
//!
//! Every budget of the transport is set here; none is left at a library's default (requirement T8).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use edgeway_proto::{HubName, NodeName};
use quinn::{IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use tokio::sync::Semaphore;

use crate::{
    identity::{self, Identity, IdentityError},
    link::{Link, LinkEnd},
    runtime::Deferred,
    session::OPENING,
    tls::{self, TlsError},
};

/// Streams that a hub lets an agent have open at once: the control stream, and room for what agents may start later.
/// quinn keeps memory for each that the peer may open, so this is most of what an idle session costs.
const AGENT_STREAMS: u32 = 8;

/// How many streams more than calls an agent grants: a stream's end and the new grant cross on the wire, and a call whose
/// permit was just given back must not wait for that.
const SPARE_STREAMS: u32 = 32;

/// Bytes sent and not yet acknowledged, for a whole link. Bounds memory; at 100 ms it still allows 80 MB/s.
const SEND_WINDOW: u64 = 8 * 1024 * 1024;

/// What a transport may use. The same type for both ends; each sets what is its own to grant.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// Calls in flight on one session, at most. (1024)
    pub calls: u32,
    /// Bytes of one stream that may wait to be read. (512 KiB): at 100 ms round trip one call gets 5 MB/s. A session's
    /// window is this times its streams, so that stalled calls never hold up others; that product bounds memory.
    pub stream_window: u32,
    /// How often an agent shows that it lives. (5 s)
    pub keep_alive: Duration,
    /// Silence after which a session is dead. (15 s)
    pub idle_timeout: Duration,
    /// Handshakes in progress at once; more are refused. (256)
    pub handshakes: usize,
    /// Search for the largest datagram that the path takes. (true)
    pub mtu_discovery: bool,
    /// Let the kernel cut datagrams (generic segmentation offload). (true)
    pub gso: bool,
    /// Let connection drivers wait for the tasks that are ready; for runtimes with several workers. (false)
    pub deferred_drivers: bool,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            calls: 1024,
            stream_window: 512 * 1024,
            keep_alive: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15),
            handshakes: 256,
            mtu_discovery: true,
            gso: true,
            deferred_drivers: false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Hub,
    Agent,
}

impl Budgets {
    fn transport(&self, side: Side) -> TransportConfig {
        let streams = match side {
            Side::Hub => AGENT_STREAMS,
            Side::Agent => self.calls.saturating_add(SPARE_STREAMS),
        };
        // Both ends receive bodies on the streams that carry calls, whoever opened them.
        let session_window =
            u64::from(self.stream_window) * (u64::from(self.calls) + u64::from(AGENT_STREAMS));
        let mut config = TransportConfig::default();
        config
            .max_concurrent_bidi_streams(VarInt::from_u32(streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u64(session_window).unwrap_or(VarInt::MAX))
            .send_window(SEND_WINDOW)
            .send_fairness(true)
            .datagram_receive_buffer_size(None)
            .datagram_send_buffer_size(0)
            .max_idle_timeout(Some(
                IdleTimeout::try_from(self.idle_timeout).unwrap_or(VarInt::from_u32(15_000).into()),
            ))
            // One side's pings and the other's acknowledgements keep both informed.
            .keep_alive_interval((side == Side::Agent).then_some(self.keep_alive))
            .mtu_discovery_config(self.mtu_discovery.then(MtuDiscoveryConfig::default))
            .enable_segmentation_offload(self.gso);
        config
    }
}

/// Why a transport could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The socket could not be bound.
    #[error("can't listen on UDP {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The identity is not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn endpoint(
    budgets: &Budgets,
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
) -> Result<quinn::Endpoint, TransportError> {
    let failed = |source| TransportError::Bind { address, source };
    let socket = UdpSocket::bind(address).map_err(failed)?;
    let config = quinn::EndpointConfig::default();
    if !budgets.deferred_drivers {
        return quinn::Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).map_err(failed);
    }
    let runtime = Deferred::new();
    let endpoint = quinn::Endpoint::new(config, server, socket, runtime.clone()).map_err(failed)?;
    runtime.endpoint_is_made();
    Ok(endpoint)
}

/// Hub: takes agents' connections. Dropped, it takes no new ones; links live on.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    identity: Arc<Identity>,
    handshakes: Arc<Semaphore>,
    limit: usize,
}

/// Why a connection became no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Too many handshakes were in progress; the peer was refused.
    #[error("too many handshakes in progress")]
    Busy,
    /// It took longer than [`OPENING`].
    #[error("handshake took longer than {} s", OPENING.as_secs())]
    TimedOut,
    /// TLS or the transport failed: no certificate, a foreign one, another ALPN, garbage.
    #[error("handshake failed")]
    Link(#[from] LinkEnd),
    /// The certificate is from our authority but names no node of ours.
    #[error("peer's certificate is refused")]
    Identity(#[from] IdentityError),
}

impl HandshakeError {
    /// A short name for metrics.
    pub fn name(&self) -> &'static str {
        match self {
            HandshakeError::Busy => "busy",
            HandshakeError::TimedOut => "timed_out",
            HandshakeError::Link(_) => "tls",
            HandshakeError::Identity(_) => "identity",
        }
    }
}

/// A connection whose handshake is in progress.
#[derive(Debug)]
pub struct Handshake {
    incoming: quinn::Incoming,
    identity: Arc<Identity>,
    /// `None` if there was no room: [`finish`](Self::finish) refuses.
    permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Listener {
    /// Listens on a UDP address; port 0 takes a free one.
    ///
    /// # Errors
    /// An address that can't be bound, or an identity that TLS does not take.
    pub fn bind(
        address: SocketAddr,
        identity: Arc<Identity>,
        budgets: &Budgets,
    ) -> Result<Self, TransportError> {
        let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls::server(&identity)?)
            .map_err(TlsError::from)?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        config
            .transport_config(Arc::new(budgets.transport(Side::Hub)))
            // What has not been looked at yet, and the bytes it may bring along.
            .max_incoming(budgets.handshakes.max(1) * 4)
            .incoming_buffer_size(16 * 1024)
            .incoming_buffer_size_total(4 * 1024 * 1024);
        let endpoint = endpoint(budgets, address, Some(config))?;
        let handshakes = Arc::new(Semaphore::new(budgets.handshakes));
        Ok(Self { endpoint, identity, handshakes, limit: budgets.handshakes })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next connection. Run [`Handshake::finish`] in a task of its own. `None` once the listener was closed.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn accept(&self) -> Option<Handshake> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let permit = self.handshakes.clone().try_acquire_owned().ok();
            // Half full: addresses must prove to be real before they cost a handshake (RFC 9000, section 8.1.2).
            if self.handshakes.available_permits() < self.limit / 2 && incoming.may_retry() {
                let _ = incoming.retry();
                continue;
            }
            return Some(Handshake { incoming, identity: self.identity.clone(), permit });
        }
    }

    /// Handshakes in progress.
    pub fn handshakes(&self) -> usize {
        self.limit.saturating_sub(self.handshakes.available_permits())
    }

    /// Takes no new connection from now on.
    pub fn close(&self) {
        self.endpoint.set_server_config(None);
    }

    /// Waits until every link's last packets are out.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}

impl Handshake {
    /// Who dials.
    pub fn remote_address(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Completes the handshake: the link, and the node that its certificate names.
    ///
    /// # Errors
    /// See [`HandshakeError`]. The peer was told.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn finish(self) -> Result<(Link, NodeName), HandshakeError> {
        let Some(_permit) = self.permit else {
            self.incoming.refuse();
            return Err(HandshakeError::Busy);
        };
        let connecting = self.incoming.accept().map_err(LinkEnd::from)?;
        let connection = tokio::time::timeout(OPENING, connecting)
            .await
            .map_err(|_| HandshakeError::TimedOut)?
            .map_err(LinkEnd::from)?;
        let link = Link::quic(connection);
        let named = match link.peer_certificate() {
            Some(leaf) => identity::node_name(&leaf, &self.identity.trust_domain),
            None => Err(IdentityError::Unparsable),
        };
        match named {
            Ok(name) => Ok((link, name)),
            Err(error) => {
                let code = edgeway_proto::CloseCode::IdentityRefused;
                link.close(&edgeway_proto::Close::new(code, error.to_string()));
                Err(error.into())
            }
        }
    }
}

/// Agent: dials hubs from one UDP socket.
#[derive(Debug)]
pub struct Dialler {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
    identity: Arc<Identity>,
}

/// Why a hub could not be dialled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name can't be that of a hub, or the address not be dialled from this socket.
    #[error("can't dial {address} as '{server_name}'")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Under which name.
        server_name: String,
        /// What the transport says.
        source: quinn::ConnectError,
    },
    /// No answer within [`OPENING`].
    #[error("{address} did not answer within {} s", OPENING.as_secs())]
    TimedOut {
        /// Where.
        address: SocketAddr,
    },
    /// The handshake failed.
    #[error("handshake with {address} failed")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// How.
        source: LinkEnd,
    },
    /// Whoever answered is no hub of ours.
    #[error("{address} shows a certificate that is refused")]
    Identity {
        /// Where.
        address: SocketAddr,
        /// What is wrong with it.
        source: IdentityError,
    },
}

impl Dialler {
    /// Opens a socket on a free port.
    ///
    /// # Errors
    /// A socket that can't be opened, or an identity that TLS does not take.
    pub fn bind(identity: Arc<Identity>, budgets: &Budgets, ipv6: bool) -> Result<Self, TransportError> {
        let address: SocketAddr = if ipv6 {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls::client(&identity)?)
            .map_err(TlsError::from)?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(budgets.transport(Side::Agent)));
        let endpoint = endpoint(budgets, address, None)?;
        Ok(Self { endpoint, config, identity })
    }

    /// Dials a hub, whose certificate must be good for `server_name` and name a hub of the trust domain.
    ///
    /// # Errors
    /// See [`DialError`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn dial(&self, address: SocketAddr, server_name: &str) -> Result<(Link, HubName), DialError> {
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), address, server_name)
            .map_err(|source| DialError::Connect { address, server_name: server_name.into(), source })?;
        let connection = tokio::time::timeout(OPENING, connecting)
            .await
            .map_err(|_| DialError::TimedOut { address })?
            .map_err(|error| DialError::Handshake { address, source: error.into() })?;
        let link = Link::quic(connection);
        let named = match link.peer_certificate() {
            Some(leaf) => identity::hub_name(&leaf, &self.identity.trust_domain),
            None => Err(IdentityError::Unparsable),
        };
        match named {
            Ok(hub) => Ok((link, hub)),
            Err(source) => {
                let code = edgeway_proto::CloseCode::IdentityRefused;
                link.close(&edgeway_proto::Close::new(code, source.to_string()));
                Err(DialError::Identity { address, source })
            }
        }
    }

    /// Waits until every link's last packets are out.
    pub async fn wait_idle(&self) {
        self.endpoint.wait_idle().await;
    }
}
