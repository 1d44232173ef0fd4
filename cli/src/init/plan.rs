//! What a hub and its nodes are called and where they listen, before anything is written.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use edgeway_proto::{HubName, NodeName, TrustDomain};

use crate::{arguments::InitArguments, services::Kind};

/// Most nodes of one plan. Each takes ports of its own on this machine, counted up from 7490 and 9001; with more, they
/// would run into those of others.
pub const MAX_NODES: usize = 100;

/// Where hubs listen for agents.
const TUNNEL_PORT: u16 = 7443;
/// Where the hub listens for HTTP calls.
const REST_PORT: u16 = 8080;
/// Where the hub shows its state.
const HUB_ADMIN_PORT: u16 = 7480;
/// Where the first node's agent shows its state; the next one takes the next port, so that one machine can hold all.
const AGENT_ADMIN_PORT: u16 = 7490;
/// The first local service of the first node. A node takes four ports, the next one starts ten further.
const FIRST_SERVICE_PORT: u16 = 9001;

/// Why names can't be used together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A name that a directory of ours has.
    #[error("no node can be called '{0}' here, as the directory of that name is the {0}'s own")]
    Reserved(NodeName),
    /// The same node twice.
    #[error("node '{0}' is named twice")]
    Twice(NodeName),
    /// More nodes than ports were set aside for.
    #[error("{0} nodes are named, at most {MAX_NODES} are allowed")]
    TooMany(usize),
}

/// A hub and its nodes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The domain whose authority vouches for all of them.
    pub trust_domain: TrustDomain,
    /// The hub.
    pub hub: HubPlan,
    /// The nodes, at least one.
    pub nodes: Vec<NodePlan>,
    /// How long running calls may go on when a hub or an agent stops, as written in a config.
    pub drain: &'static str,
}

/// A hub.
#[derive(Debug, Clone)]
pub struct HubPlan {
    /// Its name, for its certificate.
    pub name: HubName,
    /// The DNS names and IP addresses at which agents dial it, for its certificate.
    pub addresses: Vec<String>,
    /// Where it listens for agents.
    pub tunnel: SocketAddr,
    /// Where it listens for HTTP calls.
    pub rest: SocketAddr,
    /// Where it shows its state.
    pub admin: SocketAddr,
}

/// A node with its agent and its four local services.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Its name, for its certificate.
    pub name: NodeName,
    /// The value of its label `site`.
    pub site: String,
    /// The hubs that its agent dials, as `host:port`.
    pub hubs: Vec<String>,
    /// Where its agent shows its state.
    pub admin: SocketAddr,
    /// Where its services listen, in the order of [`Kind::ALL`].
    pub services: [SocketAddr; 4],
}

impl NodePlan {
    /// Where the service of this kind listens.
    pub fn address(&self, kind: Kind) -> SocketAddr {
        self.services[kind as usize]
    }
}

impl Plan {
    /// The plan that the arguments of `init` ask for. Everything listens on loopback, except the tunnel where agents dial
    /// the hub at another address.
    ///
    /// # Errors
    /// A node twice, one that is called as a directory of ours, or too many of them.
    pub fn of(arguments: &InitArguments) -> Result<Self, PlanError> {
        check(&arguments.nodes)?;
        let addresses = arguments.hub_addresses.clone();
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let hubs: Vec<_> = addresses.iter().map(|address| dialled(address)).collect();
        let nodes = arguments.nodes.iter().zip(0..).map(|(name, place): (_, u16)| NodePlan {
            name: name.clone(),
            site: site(name),
            hubs: hubs.clone(),
            admin: loopback(AGENT_ADMIN_PORT + place),
            services: [0, 1, 2, 3].map(|service| loopback(FIRST_SERVICE_PORT + 10 * place + service)),
        });
        let nodes = nodes.collect();
        let hub = HubPlan {
            name: arguments.hub_name.clone(),
            tunnel: SocketAddr::new(listening(&addresses), TUNNEL_PORT),
            rest: loopback(REST_PORT),
            admin: loopback(HUB_ADMIN_PORT),
            addresses,
        };
        Ok(Self { trust_domain: arguments.trust_domain.clone(), hub, nodes, drain: "30s" })
    }
}

fn check(nodes: &[NodeName]) -> Result<(), PlanError> {
    if nodes.len() > MAX_NODES {
        return Err(PlanError::TooMany(nodes.len()));
    }
    let mut seen = BTreeSet::new();
    for node in nodes {
        if ["hub", "ca", "hub.yaml"].contains(&node.as_str()) {
            return Err(PlanError::Reserved(node.clone()));
        }
        if !seen.insert(node) {
            return Err(PlanError::Twice(node.clone()));
        }
    }
    Ok(())
}

/// An address of the hub with the tunnel's port.
fn dialled(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, TUNNEL_PORT).to_string(),
        Err(_) => format!("{address}:{TUNNEL_PORT}"),
    }
}

/// Where to listen so that agents reach the hub at all of `addresses`: on loopback if that is enough.
fn listening(addresses: &[String]) -> IpAddr {
    let ips: Vec<IpAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    match (addresses, ips.as_slice()) {
        ([_], [ip]) if ip.is_loopback() => *ip,
        (_, ips) if ips.iter().any(IpAddr::is_ipv6) => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// The site that a node's name suggests: `berlin` for `berlin-1`. Any label value would do; this one reads well.
pub(crate) fn site(node: &NodeName) -> String {
    let name = node.as_str();
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stem = stem.trim_end_matches(['-', '.']);
    let stem = if stem.is_empty() { name } else { stem };
    // A label's value has at most 63 characters and ends with a letter or digit.
    stem[..stem.len().min(63)].trim_end_matches(['-', '.']).to_owned()
}
