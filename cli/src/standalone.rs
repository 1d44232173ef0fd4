//! `edgeway service`: local services in a process of their own, to put behind an agent.

use std::{io, net::SocketAddr};

use edgeway_host::signals::Signals;

use crate::{
    arguments::{ServiceArguments, ServiceChoice},
    print::say,
    services::{self, Kind, ListenError},
};

/// Why services did not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StandaloneError {
    /// One did not start; those before it were stopped again.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// `all` from a port that has no three after it.
    #[error("port {0} has no three ports after it, as 'all' needs")]
    NoPortsAfter(u16),
    /// The operating system hands out no signals.
    #[error("can't wait for Ctrl-C")]
    Signals(#[source] io::Error),
}

/// Runs until SIGINT or SIGTERM.
pub(crate) async fn run(arguments: &ServiceArguments) -> Result<(), StandaloneError> {
    let mut signals = Signals::catch().map_err(StandaloneError::Signals)?;
    let mut running = Vec::new();
    for (kind, address) in places(arguments)? {
        let service = services::start(kind, &arguments.node, address).await?;
        say(&format!("{:<6} http://{:<22} {}", kind.name(), service.address(), kind.purpose()));
        running.push(service);
    }
    signals.next().await;
    let stopping = running.into_iter().map(services::RunningService::shutdown);
    signals.unless_impatient(futures_util::future::join_all(stopping)).await;
    Ok(())
}

fn places(arguments: &ServiceArguments) -> Result<Vec<(Kind, SocketAddr)>, StandaloneError> {
    let first = arguments.listen;
    match arguments.service {
        ServiceChoice::One(kind) => Ok(vec![(kind, first)]),
        // Four free ones.
        ServiceChoice::All if first.port() == 0 => Ok(Kind::ALL.map(|kind| (kind, first)).into()),
        ServiceChoice::All => {
            let place = |kind: Kind| {
                let port = first.port().checked_add(kind as u16);
                port.map(|port| (kind, SocketAddr::new(first.ip(), port)))
            };
            let places: Option<Vec<_>> = Kind::ALL.into_iter().map(place).collect();
            places.ok_or(StandaloneError::NoPortsAfter(first.port()))
        }
    }
}
