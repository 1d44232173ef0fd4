//! A stretch of network between agent and hub that a test can cut, and whose address towards the hub it can change.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{net::UdpSocket, sync::watch};
use tokio_util::task::AbortOnDropHandle;

/// Passes datagrams of one agent on. Dropped, it passes nothing more.
pub(crate) struct Relay {
    /// Where the agent dials.
    pub(crate) address: SocketAddr,
    open: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
    rebind: watch::Sender<()>,
    _task: AbortOnDropHandle<()>,
}

impl Relay {
    pub(crate) async fn to(hub: SocketAddr) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = near.local_addr().expect("an address");
        let open = Arc::new(AtomicBool::new(true));
        let passed = Arc::new(AtomicUsize::new(0));
        let (rebind, rebound) = watch::channel(());
        let task = tokio::spawn(run(near, hub, open.clone(), passed.clone(), rebound));
        Self { address, open, passed, rebind, _task: AbortOnDropHandle::new(task) }
    }

    /// Swallows everything, both ways, as a dead link does; or passes it on again.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, Ordering::Release);
    }

    /// Shows another address to the hub, as a NAT does that forgot its table.
    pub(crate) fn rebind(&self) {
        self.rebind.send_replace(());
    }

    /// Datagrams passed until now.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Acquire)
    }
}

async fn run(
    near: UdpSocket,
    hub: SocketAddr,
    open: Arc<AtomicBool>,
    passed: Arc<AtomicUsize>,
    mut rebound: watch::Receiver<()>,
) {
    let mut agent = None;
    let mut far = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let (mut from_agent, mut from_hub) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            biased; // a new address holds for everything after it
            Ok(()) = rebound.changed() => far = UdpSocket::bind("127.0.0.1:0").await.expect("a port"),
            Ok((size, from)) = near.recv_from(&mut from_agent) => {
                agent = Some(from);
                if open.load(Ordering::Acquire) {
                    passed.fetch_add(1, Ordering::AcqRel);
                    let _ = far.send_to(&from_agent[..size], hub).await;
                }
            }
            Ok((size, _)) = far.recv_from(&mut from_hub) => {
                if let Some(agent) = agent && open.load(Ordering::Acquire) {
                    passed.fetch_add(1, Ordering::AcqRel);
                    let _ = near.send_to(&from_hub[..size], agent).await;
                }
            }
        }
    }
}
