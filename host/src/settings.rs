//! Sections and fields that hub and agent write alike: `identity`, `admin`, `runtime`, `udp`, labels and limits.
//!
//! Each raw section becomes a validated value in one step that reports every problem.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use edgeway_proto::{TrustDomain, head::HeadLimits};
use serde::Deserialize;

use crate::{
    report::{Problem, join},
    units::{Period, Size},
};

/// `identity`, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentitySection {
    /// The domain whose CA vouches for hubs and nodes. Required.
    pub trust_domain: TrustDomain,
    /// Where certificates and keys lie. Required. A relative path starts at the config file's folder.
    pub directory: PathBuf,
}

/// `identity`, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The domain whose CA vouches for hubs and nodes.
    pub trust_domain: TrustDomain,
    /// Where certificates and keys lie, relative to nothing but the working directory.
    pub directory: PathBuf,
}

impl IdentitySection {
    /// Resolves the directory against the config file's `folder` and checks that each of `files` in it can be read.
    pub fn validate(self, folder: &Path, files: &[&str], problems: &mut Vec<Problem>) -> Identity {
        let directory = folder.join(&self.directory);
        for file in files {
            let file = directory.join(file);
            if let Err(why) = probe_file(&file) {
                problems.push(Problem::new(
                    "identity.directory",
                    format!("can't read {}: {why}", file.display()),
                ));
            }
        }
        Identity { trust_domain: self.trust_domain, directory }
    }
}

/// Reads one byte, as opening alone succeeds on a directory, and opening a named pipe waits for ever.
fn probe_file(path: &Path) -> Result<(), String> {
    let plain = |error: std::io::Error| plain_io_error(&error);
    if !std::fs::metadata(path).map_err(plain)?.is_file() {
        return Err("not a regular file".into());
    }
    match File::open(path).map_err(plain)?.read(&mut [0]).map_err(plain)? {
        0 => Err("the file is empty".into()),
        _ => Ok(()),
    }
}

/// What the operating system says, without the number in brackets.
pub(crate) fn plain_io_error(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// `admin`, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AdminSection {
    /// Whether there is an admin listener at all; `true` where absent.
    pub enabled: Option<bool>,
    /// Where to listen; each process has its own default on loopback.
    pub listen: Option<SocketAddr>,
    /// Whether `listen` may be an address that other machines reach; `false` where absent. The pages need no login.
    pub allow_remote: bool,
}

impl AdminSection {
    /// Where to listen, `None` for nowhere.
    pub fn validate(self, default: SocketAddr, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
        let listen = self.listen.unwrap_or(default);
        if !self.enabled.unwrap_or(true) {
            return None;
        }
        if !self.allow_remote && !listen.ip().is_loopback() {
            problems.push(Problem::new(
                "admin.listen",
                format!(
                    "{listen} can be reached by other machines, and the admin pages need no login: use a loopback \
                     address such as {default}, or set admin.allowRemote to true"
                ),
            ));
        }
        Some(listen)
    }
}

/// `runtime`, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RuntimeSection {
    /// Worker threads; see [`default_workers`](crate::runtime::default_workers) for absence.
    pub workers: Option<usize>,
}

impl RuntimeSection {
    /// The number of worker threads.
    pub fn validate(self, problems: &mut Vec<Problem>) -> usize {
        let workers = self.workers.unwrap_or_else(crate::runtime::default_workers);
        // 256 is over any machine that a hub makes use of, and far under what would exhaust its threads.
        in_range("runtime.workers", workers as u64, 1, 256, problems);
        workers
    }
}

/// `udp`, as written and as used: what to ask of the kernel's UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Udp {
    /// Generic segmentation offload: many datagrams in one system call. `true` where absent; `false` costs about
    /// three quarters of the throughput, and helps only where a driver or a virtual network is broken.
    pub gso: bool,
    /// Discovery of the path's MTU. `true` where absent; `false` stays with datagrams of 1200 bytes.
    pub mtu_discovery: bool,
}

impl Default for Udp {
    fn default() -> Self {
        Self { gso: true, mtu_discovery: true }
    }
}

/// How hub and agent notice that the other is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Pause between two signs of life.
    pub interval: Duration,
    /// Silence after which a session is dead.
    pub idle_timeout: Duration,
}

impl KeepAlive {
    /// From the fields `keepAlive` (5 s where absent) and `idleTimeout` (15 s where absent) of the section at `path`.
    ///
    /// Three signs of life fit into the default silence, so that one or two lost packets end no session.
    pub fn validate(
        path: &str,
        keep_alive: Option<Period>,
        idle_timeout: Option<Period>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let interval = keep_alive.map_or(Duration::from_secs(5), |period| period.0);
        let idle_timeout = idle_timeout.map_or(Duration::from_secs(15), |period| period.0);
        if interval.saturating_mul(2) > idle_timeout {
            problems.push(Problem::new(
                join(path, "keepAlive"),
                format!(
                    "is {interval:?}, at most half of idleTimeout ({idle_timeout:?}) is allowed, or one lost packet \
                     ends a session"
                ),
            ));
        }
        if idle_timeout > Duration::from_secs(3600) {
            problems.push(Problem::new(
                join(path, "idleTimeout"),
                format!("is {idle_timeout:?}, at most 1h is allowed: that long a dead node would seem alive"),
            ));
        }
        Self { interval, idle_timeout }
    }
}

/// The field `streamWindow`: bytes of one call on their way. 512 KiB where absent, 16 KiB to 64 MiB are allowed.
///
/// It bounds memory for each slow reader, and the throughput of one call: window / round-trip time.
pub fn stream_window(path: &str, window: Option<Size>, problems: &mut Vec<Problem>) -> u32 {
    let window = window.map_or(512 * 1024, |size| size.0);
    in_range(path, window, 16 * 1024, 64 * 1024 * 1024, problems);
    u32::try_from(window).unwrap_or(u32::MAX)
}

/// The fields `headerCount` (128 where absent, 1 to 1024 are allowed) and `headerBytes` (64 KiB where absent, 1 KiB to
/// 96 KiB are allowed) of the section at `path`.
///
/// More would not pass the other end: a head that uses all of it, request target included, has to fit into one frame
/// of 256 KiB.
pub fn head_limits(
    path: &str,
    header_count: Option<usize>,
    header_bytes: Option<Size>,
    problems: &mut Vec<Problem>,
) -> HeadLimits {
    let default = HeadLimits::default();
    let headers = header_count.unwrap_or(default.headers);
    let bytes = header_bytes.map_or(default.bytes, Size::length);
    in_range(&join(path, "headerCount"), headers as u64, 1, 1024, problems);
    in_range(&join(path, "headerBytes"), bytes as u64, 1024, 96 * 1024, problems);
    HeadLimits { headers, bytes }
}

/// A count of calls, sessions and the like at `path`: `default` where absent, 1 to a million are allowed.
pub fn count(path: &str, count: Option<usize>, default: usize, problems: &mut Vec<Problem>) -> usize {
    let count = count.unwrap_or(default);
    in_range(path, count as u64, 1, 1_000_000, problems);
    count
}

/// `Some` if there is a value; else reports that it is missing, unless it was reported as wrong before.
pub fn required<T>(value: Option<T>, path: String, problems: &mut Vec<Problem>) -> Option<T> {
    if value.is_none() && !problems.iter().any(|problem| problem.path == path) {
        problems.push(Problem::new(path, "is missing"));
    }
    value
}

/// Adds a problem if `value` is out of `least..=most`.
pub fn in_range(path: &str, value: u64, least: u64, most: u64, problems: &mut Vec<Problem>) {
    if !(least..=most).contains(&value) {
        problems.push(Problem::new(path, format!("is {value}, {least} to {most} are allowed")));
    }
}

/// Checks labels of nodes, or of what selects them: the syntax of Kubernetes' labels.
pub fn check_labels(path: &str, labels: &BTreeMap<String, String>, problems: &mut Vec<Problem>) {
    // 64 labels of a node travel in each Hello; more than that is data, not labels.
    const MOST: usize = 64;
    if labels.len() > MOST {
        problems.push(Problem::new(path, format!("has {} labels, at most {MOST} are allowed", labels.len())));
    }
    for (key, value) in labels {
        let (prefix, name) =
            key.split_once('/').map_or((None, key.as_str()), |(prefix, name)| (Some(prefix), name));
        let prefix_is_good = prefix.is_none_or(|prefix| edgeway_proto::NodeName::new(prefix).is_ok());
        if !prefix_is_good || !is_label_word(name) {
            problems.push(Problem::new(
                path,
                format!(
                    "label key '{}' must consist of at most 63 letters, digits, '-', '_' and '.', start and end with \
                     a letter or digit, and may have a DNS name and '/' before it",
                    shorten(key)
                ),
            ));
        }
        if !value.is_empty() && !is_label_word(value) {
            problems.push(Problem::new(
                join(path, key),
                format!(
                    "label value '{}' must consist of at most 63 letters, digits, '-', '_' and '.', and start and end \
                     with a letter or digit",
                    shorten(value)
                ),
            ));
        }
    }
}

fn is_label_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    let end_is_good = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && end_is_good(bytes.first())
        && end_is_good(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// What of a wrong text is repeated to its author: 80 characters, escaped.
pub fn shorten(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(check: impl FnOnce(&mut Vec<Problem>)) -> Vec<String> {
        let mut problems = Vec::new();
        check(&mut problems);
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_admin_address_out_of_loopback_needs_consent() {
        let default: SocketAddr = "127.0.0.1:7480".parse().expect("an address");
        let remote: SocketAddr = "0.0.0.0:7480".parse().expect("an address");
        let section = |listen, allow_remote| AdminSection { enabled: None, listen, allow_remote };
        let mut problems = Vec::new();
        assert_eq!(section(None, false).validate(default, &mut problems), Some(default));
        assert_eq!(section(Some(remote), true).validate(default, &mut problems), Some(remote));
        let off = AdminSection { enabled: Some(false), ..section(Some(remote), false) };
        assert_eq!(off.validate(default, &mut problems), None);
        assert_eq!(problems, []);
        let messages = messages(|problems| {
            section(Some(remote), false).validate(default, problems);
        });
        assert_eq!(messages.len(), 1);
        assert!(messages[0].starts_with("admin.listen: 0.0.0.0:7480 can be reached"), "{messages:?}");
        assert!(messages[0].contains("admin.allowRemote"), "{messages:?}");
    }

    #[test]
    fn each_identity_file_that_cant_be_read_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.crt"), "x").expect("written");
        std::fs::write(folder.path().join("empty.crt"), "").expect("written");
        std::fs::create_dir(folder.path().join("hub.key")).expect("made");
        let section = IdentitySection {
            trust_domain: TrustDomain::new("example.com").expect("a name"),
            directory: ".".into(),
        };
        let files = ["ca.crt", "empty.crt", "missing.crt", "hub.key"];
        let messages = messages(|problems| {
            let identity = section.validate(folder.path(), &files, problems);
            assert_eq!(identity.directory, folder.path().join("."));
        });
        assert_eq!(messages.len(), 3, "{messages:?}");
        assert!(messages.iter().all(|message| message.starts_with("identity.directory: can't read /")));
        assert!(messages[0].ends_with("empty.crt: the file is empty"), "{messages:?}");
        assert!(messages[1].ends_with("missing.crt: No such file or directory"), "{messages:?}");
        assert!(messages[2].ends_with("hub.key: not a regular file"), "{messages:?}");
    }

    #[test]
    fn labels_have_the_syntax_of_kubernetes() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let good = labels(&[("site", "berlin"), ("topology.kubernetes.io/zone", "Eu_1.a"), ("empty", "")]);
        assert_eq!(messages(|problems| check_labels("node.labels", &good, problems)), [""; 0]);
        let long = "x".repeat(64);
        let bad = labels(&[("-a", "b"), ("A/b", "c"), ("d", "{site}"), ("e", &long)]);
        let messages = messages(|problems| check_labels("node.labels", &bad, problems));
        assert_eq!(messages.len(), 4, "{messages:?}");
        assert!(messages[2].starts_with("node.labels.d: label value '{site}' must"), "{messages:?}");
    }

    #[test]
    fn workers_have_a_range() {
        let messages = messages(|problems| {
            assert_eq!(RuntimeSection { workers: Some(2) }.validate(problems), 2);
            RuntimeSection { workers: Some(0) }.validate(problems);
            RuntimeSection { workers: Some(257) }.validate(problems);
        });
        assert_eq!(
            messages,
            ["runtime.workers: is 0, 1 to 256 are allowed", "runtime.workers: is 257, 1 to 256 are allowed"]
        );
    }
}
