//! What `init` writes, as the hub, the agent and the operating system see it.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use clap::Parser;
use cloud_hub::{Hub, config::HubConfig, registry::PluginRegistry};
use edge_agent::{Agent, config::AgentConfig, registry::ConnectorRegistry};

use super::*;
use crate::arguments::{Arguments, Command};

fn arguments(directory: &Path, more: &[&str]) -> InitArguments {
    let directory = directory.to_str().unwrap();
    let words = ["edgeway", "init", directory].into_iter().chain(more.iter().copied());
    match Arguments::try_parse_from(words).unwrap().command {
        Command::Init(arguments) => arguments,
        other => panic!("{other:?}"),
    }
}

fn written(more: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let arguments = arguments(directory.path(), more);
    write_all(directory.path(), &Plan::of(&arguments).unwrap(), false).unwrap();
    directory
}

fn load_all(directory: &Path, nodes: &[&str]) {
    Hub::builder()
        .with_builtin_plugins()
        .load(&directory.join("hub.yaml"))
        .unwrap_or_else(|report| panic!("{report}"));
    for node in nodes {
        let config = directory.join(node).join("agent.yaml");
        Agent::builder().with_builtin_connectors().load(&config).unwrap_or_else(|report| panic!("{report}"));
    }
}

/// Takes the `#` away before every option that is left out: in the first column, and not before a single space.
fn with_all_options(config: &str) -> String {
    let bare = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && (!rest.starts_with(' ') || rest.starts_with("  ")) => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    config.lines().map(|line| bare(line) + "\n").collect()
}

#[test]
fn what_is_written_is_a_valid_config() {
    let directory = written(&[]);
    load_all(directory.path(), &["berlin-1", "tokyo-1"]);
}

#[test]
fn every_option_that_is_shown_exists() {
    let directory = written(&[]);
    let mut options = 0;
    for file in ["hub.yaml", "berlin-1/agent.yaml"] {
        let path = directory.path().join(file);
        let before = fs::read_to_string(&path).unwrap();
        let after = with_all_options(&before);
        options += before.lines().zip(after.lines()).filter(|(before, after)| before != after).count();
        fs::write(&path, after).unwrap();
    }
    assert!(options > 20, "only {options} options were found");
    load_all(directory.path(), &["berlin-1"]);
}

/// The config up to the heading of the first section that shows examples instead of defaults.
fn settings_of(directory: &Path, file: &str, heading: &str) -> (PathBuf, PathBuf) {
    let config = fs::read_to_string(directory.join(file)).unwrap();
    let (settings, _) = config.split_once(heading).unwrap();
    let (plain, full) = (directory.join(file), directory.join(format!("{file}.full")));
    fs::write(&plain, settings).unwrap();
    fs::write(&full, with_all_options(settings)).unwrap();
    (plain, full)
}

#[test]
fn the_defaults_that_are_shown_are_the_defaults() {
    let directory = written(&[]);
    let (plain, full) = settings_of(directory.path(), "hub.yaml", "\n# Ways into the tunnel");
    let hub = |file: &Path| HubConfig::load(file, &PluginRegistry::new()).unwrap();
    let (plain, full) = (hub(&plain), hub(&full));
    assert_eq!(format!("{:?}", plain.tunnel), format!("{:?}", full.tunnel));
    assert_eq!((plain.admin, plain.drain), (full.admin, full.drain));

    let (plain, full) = settings_of(directory.path(), "berlin-1/agent.yaml", "\n# What callers may call");
    let agent = |file: &Path| AgentConfig::load(file, &ConnectorRegistry::new()).unwrap();
    let (plain, full) = (agent(&plain), agent(&full));
    assert_eq!((plain.uplink, plain.udp), (full.uplink, full.udp));
    assert_eq!(format!("{:?}", plain.limits), format!("{:?}", full.limits));
    assert_eq!((plain.admin, plain.drain), (full.admin, full.drain));
}

#[test]
fn names_that_yaml_takes_for_something_else_stay_names() {
    let nodes = ["1", "true", "null", "0x1f", "1e3", "no", "a.b"];
    let more: Vec<_> = nodes.into_iter().flat_map(|node| ["--node", node]).collect();
    let directory = written(&[&more[..], &["--hub-name", "7", "--trust-domain", "1.5"]].concat());
    load_all(directory.path(), &nodes);
}

#[test]
fn a_hub_with_several_addresses_is_dialled_at_each() {
    let directory =
        written(&["--hub-address", "hub.example.com", "--hub-address", "2001:db8::1", "--node", "n"]);
    load_all(directory.path(), &["n"]);
    let agent = fs::read_to_string(directory.path().join("n/agent.yaml")).unwrap();
    assert!(agent.contains("hubs:\n- \"hub.example.com:7443\"\n- \"[2001:db8::1]:7443\"\n"), "{agent}");
    let hub = fs::read_to_string(directory.path().join("hub.yaml")).unwrap();
    assert!(hub.contains("listen: \"[::]:7443\""), "{hub}");
}

#[test]
fn no_placeholder_is_left() {
    let directory = written(&[]);
    for file in ["hub.yaml", "berlin-1/agent.yaml", "tokyo-1/agent.yaml"] {
        let text = fs::read_to_string(directory.path().join(file)).unwrap();
        assert!(!text.contains('@'), "{file}: {text}");
    }
}

#[test]
fn keys_and_their_directories_are_for_the_owner_alone() {
    let directory = written(&[]);
    let mode = |path: &str| fs::metadata(directory.path().join(path)).unwrap().permissions().mode() & 0o777;
    for key in ["ca/ca.key", "hub/hub.key", "berlin-1/node.key", "tokyo-1/node.key"] {
        assert_eq!(mode(key), 0o600, "{key}");
        let (directory, _) = key.split_once('/').unwrap();
        assert_eq!(mode(directory), 0o700, "{directory}");
    }
}

fn snapshot(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { files.push((path.clone(), fs::read(path).unwrap())) }
        }
    }
    files.sort();
    files
}

#[test]
fn nothing_is_overwritten_unless_forced() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("tokyo-1")).unwrap();
    let in_the_way = directory.path().join("tokyo-1/agent.yaml");
    fs::write(&in_the_way, "precious").unwrap();
    let plan = Plan::of(&arguments(directory.path(), &[])).unwrap();
    let before = snapshot(directory.path());
    let error = write_all(directory.path(), &plan, false).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{} is there already", in_the_way.display())), "{error}");
    assert_eq!(snapshot(directory.path()), before);
    write_all(directory.path(), &plan, true).unwrap();
    load_all(directory.path(), &["berlin-1", "tokyo-1"]);
    let first = snapshot(directory.path());
    write_all(directory.path(), &plan, true).unwrap();
    assert_ne!(snapshot(directory.path()), first, "a forced run makes a new authority");
    load_all(directory.path(), &["berlin-1", "tokyo-1"]);
}

#[test]
fn names_that_collide_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let plan = |more: &[&str]| Plan::of(&arguments(directory.path(), more)).map(|_| ());
    assert!(matches!(plan(&["--node", "hub"]), Err(PlanError::Reserved(_))));
    assert!(matches!(plan(&["--node", "a", "--node", "b", "--node", "a"]), Err(PlanError::Twice(_))));
    let many: Vec<_> = (0..=MAX_NODES).flat_map(|n| ["--node".to_owned(), format!("n{n}")]).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert!(matches!(plan(&many), Err(PlanError::TooMany(101))));
}

#[test]
fn a_site_is_the_name_without_its_number() {
    for (node, site) in
        [("berlin-1", "berlin"), ("tokyo12", "tokyo"), ("42", "42"), ("a", "a"), ("a.b-7", "a.b")]
    {
        assert_eq!(plan::site(&edgeway_proto::NodeName::new(node).unwrap()), site);
    }
}

#[test]
fn paths_are_printed_as_a_shell_takes_them() {
    assert_eq!(quoted(Path::new("/tmp/a-b")), "/tmp/a-b");
    assert_eq!(quoted(Path::new("my dir/it's")), r"'my dir/it'\''s'");
}
