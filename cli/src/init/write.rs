//! Writes a [`Plan`]: certificates from a new authority, and configs from the templates beside this file.

use std::{
    fs, io,
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use edgeway_proto::NodeName;
use edgeway_tunnel::identity::{Authority, IdentityError};

use super::{NodePlan, Plan};
use crate::services::Kind;

/// The hub's config. `@word@` is filled in; a line `#field: value` is an option with its default.
const HUB: &str = include_str!("hub.yaml");
/// An agent's config, in the same form.
const AGENT: &str = include_str!("agent.yaml");

/// Mode of a directory that holds a key.
const PRIVATE_DIRECTORY: u32 = 0o700;

/// Why a plan was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file of the plan is there already. Nothing was written.
    #[error("{} is there already; --force writes all anew, which makes every earlier certificate worthless", .0.display())]
    Exists(PathBuf),
    /// A file or directory could not be written.
    #[error("can't write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("can't make the certificates")]
    Identity(#[from] IdentityError),
}

/// A file to be written.
struct Draft {
    path: PathBuf,
    content: String,
    secret: bool,
}

impl Draft {
    fn new(path: impl Into<PathBuf>, content: impl Into<String>) -> Self {
        Self { path: path.into(), content: content.into(), secret: false }
    }

    fn secret(path: impl Into<PathBuf>, content: impl Into<String>) -> Self {
        Self { secret: true, ..Self::new(path, content) }
    }
}

/// Writes certificates and configs of the hub and all nodes below `directory`, which is made if it is not there. Keys are
/// 0600, their directories 0700.
///
/// # Errors
/// A file that is there already, unless `force` is set; a directory that can't be written; a certificate that can't be made.
pub fn write_all(directory: &Path, plan: &Plan, force: bool) -> Result<(), WriteError> {
    let mut drafts = identity_drafts(plan)?;
    drafts.push(Draft::new("hub.yaml", hub_config(plan)));
    for node in &plan.nodes {
        drafts.push(Draft::new(Path::new(node.name.as_str()).join("agent.yaml"), agent_config(plan, node)));
    }
    write(directory, drafts, force)
}

/// Writes the certificates and the hub's config alone, for a caller that learns only later where the agents dial.
///
/// # Errors
/// As [`write_all`] without `force`.
pub fn identities(directory: &Path, plan: &Plan) -> Result<(), WriteError> {
    let mut drafts = identity_drafts(plan)?;
    drafts.push(Draft::new("hub.yaml", hub_config(plan)));
    write(directory, drafts, false)
}

/// The directory of a node within that of the plan.
pub fn node_directory(directory: &Path, node: &NodeName) -> PathBuf {
    directory.join(node.as_str())
}

fn identity_drafts(plan: &Plan) -> Result<Vec<Draft>, WriteError> {
    let authority = Authority::generate(&plan.trust_domain)?;
    let vouching = authority.certificate_pem();
    let hub = authority.issue_hub(&plan.hub.name, &plan.hub.addresses)?;
    let mut drafts = vec![
        Draft::new("ca/ca.crt", vouching),
        Draft::secret("ca/ca.key", authority.key_pem()),
        Draft::new("hub/ca.crt", vouching),
        Draft::new("hub/hub.crt", hub.certificate_pem),
        Draft::secret("hub/hub.key", hub.key_pem),
    ];
    for node in &plan.nodes {
        let issued = authority.issue_node(&node.name)?;
        let at = Path::new(node.name.as_str());
        drafts.push(Draft::new(at.join("ca.crt"), vouching));
        drafts.push(Draft::new(at.join("node.crt"), issued.certificate_pem));
        drafts.push(Draft::secret(at.join("node.key"), issued.key_pem));
    }
    Ok(drafts)
}

fn write(directory: &Path, drafts: Vec<Draft>, force: bool) -> Result<(), WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| WriteError::File { path, source }
    };
    // All of them before the first write, so that a refusal leaves everything as it was.
    if !force
        && let Some(path) = drafts.iter().map(|draft| directory.join(&draft.path)).find(|path| is_there(path))
    {
        return Err(WriteError::Exists(path));
    }
    make_private(directory).map_err(failed(directory))?;
    for draft in drafts {
        let path = directory.join(&draft.path);
        if let Some(below) = draft.path.parent().filter(|below| !below.as_os_str().is_empty()) {
            let below = directory.join(below);
            make_private(&below).map_err(failed(&below))?;
            // One that was there before may be open to others; what it holds now must not be.
            fs::set_permissions(&below, fs::Permissions::from_mode(PRIVATE_DIRECTORY))
                .map_err(failed(&below))?;
        }
        if force
            && let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(&path)(error));
        }
        put(&path, &draft).map_err(failed(&path))?;
    }
    Ok(())
}

/// Whether anything has this name, a dangling link included.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIRECTORY).create(directory)
}

fn put(path: &Path, draft: &Draft) -> io::Result<()> {
    let mode = if draft.secret { 0o600 } else { 0o644 };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(draft.content.as_bytes())
}

/// The hub's config.
fn hub_config(plan: &Plan) -> String {
    let hub = &plan.hub;
    let last = plan.nodes.last().expect("a plan has a node");
    fill(
        HUB,
        &[
            ("trust-domain", scalar(plan.trust_domain.as_str())),
            ("hub", scalar(hub.name.as_str())),
            ("tunnel", address(hub.tunnel)),
            ("rest", address(hub.rest)),
            ("admin", address(hub.admin)),
            ("drain", plan.drain.to_owned()),
            ("path-site", last.site.clone()),
            ("site", scalar(&last.site)),
            ("node", plan.nodes[0].name.to_string()),
        ],
    )
}

/// The config of a node's agent.
pub fn agent_config(plan: &Plan, node: &NodePlan) -> String {
    let hubs: String = node.hubs.iter().map(|hub| format!("\n- \"{hub}\"")).collect();
    let mut words = vec![
        ("trust-domain", scalar(plan.trust_domain.as_str())),
        ("hubs", hubs),
        ("node", scalar(node.name.as_str())),
        ("site", scalar(&node.site)),
        ("admin", address(node.admin)),
        ("drain", plan.drain.to_owned()),
    ];
    words.extend(Kind::ALL.map(|kind| (kind.name(), node.address(kind).to_string())));
    fill(AGENT, &words)
}

fn fill(template: &str, words: &[(&str, String)]) -> String {
    words.iter().fold(template.to_owned(), |text, (word, value)| text.replace(&format!("@{word}@"), value))
}

/// A name as YAML takes it for a text: plain where it can be nothing else, else in quotes (`1`, `true`, `null`, …).
fn scalar(name: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if name.starts_with(|c: char| c.is_ascii_alphabetic()) && !WORDS.contains(&name) {
        name.to_owned()
    } else {
        format!("\"{name}\"")
    }
}

/// An address as YAML takes it for a text: in quotes where its bracket would begin a list.
fn address(address: SocketAddr) -> String {
    if address.is_ipv6() { format!("\"{address}\"") } else { address.to_string() }
}
