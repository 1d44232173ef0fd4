//! Role `sessions`: many agents' sessions in one process, each with a certificate and a socket of its own, all idle.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use edgeway_proto::{TrustDomain, wire};
use edgeway_tunnel::{
    identity::Identity,
    session::{Control, open_session},
    transport::{Budgets, Dialler},
};

use crate::{Outcome, process, world};

/// Dials once for each identity directory, says so, and keeps the sessions until killed.
pub(crate) async fn run(hub: SocketAddr, nodes: &Path, count: u32) -> Outcome<()> {
    let domain = TrustDomain::new(world::TRUST_DOMAIN)?;
    let budgets = Budgets::default();
    // First what does not belong to a session: everything that the process itself needs is there before it is measured.
    let identities: Vec<Arc<Identity>> = (0..count)
        .map(|node| Ok(Arc::new(Identity::load_node(&directory(nodes, node), &domain)?.0)))
        .collect::<Outcome<_>>()?;
    process::say_ready(hub);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;

    let mut sessions = Vec::with_capacity(identities.len());
    for identity in identities {
        sessions.push(open(hub, identity, &budgets).await?);
    }
    println!("open");
    std::future::pending().await
}

/// Where the identity of a node is.
pub(crate) fn directory(nodes: &Path, node: u32) -> PathBuf {
    nodes.join(format!("node-{node}"))
}

type Session = (Dialler, edgeway_tunnel::link::Link, Control);

async fn open(hub: SocketAddr, identity: Arc<Identity>, budgets: &Budgets) -> Outcome<Session> {
    let dialler = Dialler::bind(identity, budgets, false)?;
    let (link, _) = dialler.dial(hub, "localhost").await?;
    let hello = wire::Hello {
        services: vec![wire::Service { name: "bench".into(), kind: "http".into() }],
        max_calls: budgets.calls,
        agent_version: "bench".into(),
        ..Default::default()
    };
    let (control, _) = open_session(&link, &hello).await?;
    Ok((dialler, link, control))
}
