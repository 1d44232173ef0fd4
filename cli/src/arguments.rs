//! The command line: what can be said, and in which words help is given.

use std::{net::IpAddr, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use edgeway_proto::{HubName, NodeName, TrustDomain};

use crate::services::Kind;

/// Edgeway: calls in the cloud reach services behind NAT, over one tunnel from each node.
#[derive(Debug, Parser)]
#[command(name = "edgeway", version, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 64 wrong usage or config.")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show it all at work: a hub, two agents and their services in one process
    ///
    /// A hub and the agents of berlin-1 and tokyo-1 over real QUIC on loopback, each agent in front of four local HTTP
    /// services. Certificates and configs are made in a temporary directory. Prints what runs where, and curl lines to
    /// paste. Ends at Ctrl-C. EDGEWAY_LOG=info shows the logs.
    #[command(verbatim_doc_comment)]
    Demo(DemoArguments),
    /// Write certificates and commented configs for a hub and its nodes
    ///
    /// A certificate authority, certificates and configs, so that the hub and the agents run as processes of their own.
    /// Prints the commands that start them.
    #[command(verbatim_doc_comment)]
    Init(InitArguments),
    /// Run a local service to put behind an agent
    ///
    /// One of the demo's HTTP services, or all four on consecutive ports. echo: the request back as JSON. clock:
    /// Server-Sent Events, one tick a second (?ticks=N ends after N). files: GET /10MiB sends so many bytes with a
    /// checksum, POST and PUT count and hash. chat: WebSocket echo (?seconds=N closes after N). They are for trying things
    /// out; anybody who reaches their address may call them.
    #[command(verbatim_doc_comment)]
    Service(ServiceArguments),
}

/// The arguments of `edgeway demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Port on 127.0.0.1 for HTTP calls; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub rest_port: u16,
    /// End by itself after so many seconds
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub seconds: Option<u32>,
    /// Make the calls of all printed lines, check each answer, and end: 0 if all are right, 1 otherwise
    #[arg(long, conflicts_with = "seconds")]
    pub once: bool,
}

/// The arguments of `edgeway init`.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// Where to write; made if it is not there
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Domain whose authority vouches for the hub and the nodes
    #[arg(long, value_name = "DOMAIN", default_value = "example.com")]
    pub trust_domain: TrustDomain,
    /// Name of the hub
    #[arg(long, value_name = "NAME", default_value = "hub-1")]
    pub hub_name: HubName,
    /// DNS name or IP address at which agents dial the hub; can be given several times
    #[arg(long = "hub-address", value_name = "HOST", default_value = "127.0.0.1", value_parser = hub_address)]
    pub hub_addresses: Vec<String>,
    /// Name of a node; can be given several times
    #[arg(long = "node", value_name = "NAME", default_values = ["berlin-1", "tokyo-1"])]
    pub nodes: Vec<NodeName>,
    /// Overwrite what is there. A new authority makes every earlier certificate worthless
    #[arg(long)]
    pub force: bool,
}

/// The arguments of `edgeway service`.
#[derive(Debug, Args)]
pub struct ServiceArguments {
    /// Which: echo, clock, files, chat or all
    #[arg(value_name = "NAME", value_parser = service_choice)]
    pub service: ServiceChoice,
    /// Where to listen; `all` takes this port and the next three
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    /// Name of the node that answers are to show
    #[arg(long, value_name = "NAME")]
    pub node: NodeName,
}

/// One local service, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceChoice {
    /// This one.
    One(Kind),
    /// All, on consecutive ports.
    All,
}

fn service_choice(text: &str) -> Result<ServiceChoice, String> {
    match text {
        "all" => Ok(ServiceChoice::All),
        name => name
            .parse()
            .map(ServiceChoice::One)
            .map_err(|_| "expected echo, clock, files, chat or all".into()),
    }
}

/// What agents can dial: an IP address, or a DNS name.
fn hub_address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() || ip.is_multicast() => Err("agents can't dial this address".into()),
        Ok(ip) => Ok(ip.to_string()),
        Err(_) if text.contains(':') => Err("expected a DNS name or an IP address without a port".into()),
        // A text of digits and dots alone is a mistyped address, never a DNS name.
        Err(_) if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && !text.is_empty() => {
            Err("is neither an IP address nor a DNS name".into())
        }
        Err(_) => match HubName::new(text) {
            Ok(name) if !text.split('.').any(|label| label.is_empty() || label.len() > 63) => {
                Ok(name.to_string())
            }
            Ok(_) => Err("each part of a DNS name has 1 to 63 characters".into()),
            Err(error) => Err(error.to_string().replacen("hub name", "DNS name", 1)),
        },
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn hub_addresses_are_names_or_addresses_without_a_port() {
        for (text, address) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("hub.example.com", "hub.example.com"),
        ] {
            assert_eq!(hub_address(text).as_deref(), Ok(address));
        }
        for bad in ["", "0.0.0.0", "::", "hub:7443", "1.2.3", "1.2.3.4:7443", "Hub", "a..b", "a b", "hub/x"] {
            assert!(hub_address(bad).is_err(), "{bad:?} was taken");
        }
    }
}
