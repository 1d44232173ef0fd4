use std::{collections::BTreeMap, net::SocketAddr};

use edgeway_proto::NodeName;

use super::*;
use crate::units::{Period, Size};

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Section {
    calls_per_node: Option<u32>,
    window: Option<Size>,
    listen: Option<SocketAddr>,
    listeners: Vec<Listener>,
    mode: Option<Mode>,
    labels: BTreeMap<String, String>,
    timeouts: Timeouts,
    token: Option<NodeName>,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Timeouts {
    request: Option<Period>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Listener {
    address: SocketAddr,
    name: NodeName,
    timeout: Period,
    #[serde(default)]
    secure: bool,
}

#[derive(Debug, Deserialize, PartialEq)]
enum Mode {
    Fast,
    Safe,
}

fn decode_text<T: DeserializeOwned>(text: &str) -> (Option<T>, Vec<String>) {
    let mut problems = Vec::new();
    let decoded = decode(serde_yaml::from_str(text).expect("YAML"), "plugins.x", &mut problems);
    (decoded, problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_good_section_has_no_problem() {
    let (section, problems) =
        decode_text::<Section>("{callsPerNode: 5, window: 64KiB, timeouts: {request: 5s}}");
    assert_eq!(problems, [""; 0]);
    assert_eq!(section.expect("a section").window, Some(Size(65_536)));
    let (section, problems) = decode_text::<Section>("");
    assert_eq!((section, problems), (Some(Section::default()), vec![]), "nothing at all is an empty section");
}

#[test]
fn every_problem_of_a_section_is_found_in_one_go() {
    let (section, problems) = decode_text::<Section>(
        "
callsPerNode: many
window: 5MB
listen: localhost
mode: Slow
callsPerNod: 5
labels: {site: 1, a: b}
timeouts: {request: 5, reqest: 5s}
listeners:
- {address: 1.2.3.4:5, name: a, timeout: 5s}
- {adress: 1.2.3.4:5, timeout: 0s}
- 7
- {address: here, name: Berlin, timeout: 5s, secure: maybe}
",
    );
    assert_eq!(section, None, "a list lost elements");
    let expected = [
        "plugins.x.callsPerNode: found a string, expected a whole number",
        "plugins.x.window: '5MB' is no size: write a whole number of bytes, alone or with a unit, such as 4096, 64KiB, \
         1MiB or 2GiB",
        "plugins.x.listen: not an address with a port: write an IP address and a port, such as 127.0.0.1:8080 or \
         [::1]:8080",
        "plugins.x.mode: 'Slow' is not known, allowed are: Fast, Safe",
        "plugins.x.callsPerNod: unknown field, allowed are: callsPerNode, window, listen, listeners, mode, labels, \
         timeouts, token",
        "plugins.x.labels.site: found a number, expected a string",
        "plugins.x.timeouts.request: found a number, expected a duration such as 500ms, 5s, 1m30s or 2h",
        "plugins.x.timeouts.reqest: unknown field, allowed is only: request",
        "plugins.x.listeners[1].adress: unknown field, allowed are: address, name, timeout, secure",
        "plugins.x.listeners[1].timeout: must be longer than zero",
        "plugins.x.listeners[1].address: is missing",
        "plugins.x.listeners[1].name: is missing",
        "plugins.x.listeners[2]: found a number, expected a mapping",
        "plugins.x.listeners[3].address: not an address with a port: write an IP address and a port, such as \
         127.0.0.1:8080 or [::1]:8080",
        "plugins.x.listeners[3].name: node name 'Berlin' must consist of lower-case letters, digits, '-' and '.', and \
         start and end with a letter or digit",
        "plugins.x.listeners[3].secure: found a string, expected true or false",
    ];
    assert_eq!(problems, expected);
}

#[test]
fn what_is_wrong_but_optional_is_left_out_so_that_checks_go_on() {
    let (section, problems) =
        decode_text::<Section>("{callsPerNode: -1, unknown: 1, timeouts: {request: 5s}}");
    let section = section.expect("the rest decodes");
    assert_eq!(section.timeouts.request, Some(Period(std::time::Duration::from_secs(5))));
    assert_eq!(section.calls_per_node, None);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(problems[0], "plugins.x.callsPerNode: out of range, 0 to 4294967295 are allowed");
}

#[test]
fn a_secret_is_not_repeated() {
    let (_, problems) = decode_text::<Section>("{token: HUNTER2}");
    assert_eq!(problems, ["plugins.x.token: not valid (the value is not repeated here, it may be a secret)"]);
    let (_, problems) = decode_text::<Section>("{callsPerNode: HUNTER2}");
    assert_eq!(problems, ["plugins.x.callsPerNode: found a string, expected a whole number"]);
}

#[test]
fn a_section_of_the_wrong_kind_is_one_problem() {
    for (text, found) in
        [("[1]", "a list"), ("7", "a number"), ("!x {}", "a value with a YAML tag"), ("''", "a string")]
    {
        let (section, problems) = decode_text::<Section>(text);
        assert_eq!(section, None);
        assert_eq!(problems, [format!("plugins.x: found {found}, expected a mapping")]);
    }
}

#[test]
fn a_section_with_a_thousand_problems_ends() {
    let text: String = (0..1000).map(|at| format!("unknown{at}: 1\n")).collect();
    let (section, problems) = decode_text::<Section>(&text);
    assert_eq!(section, None);
    assert_eq!(problems.len(), MOST_PROBLEMS + 1);
    let text: String = std::iter::once("listeners:\n").chain((0..1000).map(|_| "- {}\n")).collect();
    let (section, problems) = decode_text::<Section>(&text);
    assert_eq!(section, None);
    assert_eq!(problems.len(), MOST_PROBLEMS + 1);
    assert_eq!(problems[5], "plugins.x.listeners[1].timeout: is missing");
}

#[test]
fn a_required_section_within_a_section_is_missed_once() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        first: Listener,
        second: Listener,
        many: Vec<Listener>,
    }
    let (outer, problems) = decode_text::<Outer>("{first: {name: a, timeout: 1s}, x: 1}");
    assert!(outer.is_none());
    assert_eq!(
        problems,
        [
            "plugins.x.first.address: is missing",
            "plugins.x.x: unknown field, allowed are: first, second, many",
            "plugins.x.second: is missing",
            "plugins.x.many: is missing",
        ],
        "what a missing section would need is not told"
    );
}

fn read(bytes: &[u8]) -> Result<Document, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("hub.yaml");
    std::fs::write(&file, bytes).expect("written");
    read_document(&file, "HubConfig").map_err(|report| {
        let text = report.to_string();
        let (first, rest) = text.split_once('\n').expect("a problem");
        assert!(first.starts_with(&file.display().to_string()), "{first}");
        rest.to_owned()
    })
}

#[test]
fn a_file_that_is_no_config_is_told_with_line_and_column() {
    let header = "apiVersion: edgeway.dev/v1alpha1\nkind: HubConfig\n";
    let with = |rest: &str| format!("{header}{rest}");
    for (text, expected) in [
        ("", "  the file is empty, expected apiVersion"),
        ("# only a comment\n", "  the file is empty"),
        ("- a\n", "  found a list, expected a mapping"),
        ("a: [b\n", "  not valid YAML: did not find expected ',' or ']' at line"),
        ("a:\n\tb: c\n", "  not valid YAML: found character that cannot start any token at line 2 column 1"),
        ("a: *b\n", "  not valid YAML: unknown anchor at line 1 column 4"),
        (&with("a:\n  b: 1\n  b: 2\n"), "  not valid YAML: a: duplicate entry with key \"b\" at line 4"),
        (&with("---\na: 1\n"), "  the file holds more than one YAML document"),
        (&with("---\na: [\n"), "  not valid YAML: "),
    ] {
        let problem = read(text.as_bytes()).expect_err("a problem");
        assert!(problem.starts_with(expected), "{text:?} gave {problem:?}");
    }
    let problem = read(b"a: b\nc: \xc3\xa4\xff\n").expect_err("not UTF-8");
    assert_eq!(problem, "  not UTF-8 at line 2 column 5");
    let problem = read(&vec![b' '; 1024 * 1024 + 1]).expect_err("too large");
    assert!(problem.contains("larger than 1048576 bytes"), "{problem}");
    let deep = format!("a: {}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(read(deep.as_bytes()).expect_err("too deep").contains("recursion limit exceeded"));
}

#[test]
fn a_file_that_cant_be_read_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = read_document(&folder.path().join("none.yaml"), "HubConfig").expect_err("no file");
    assert!(missing.to_string().ends_with("\n  can't read the file: No such file or directory"), "{missing}");
    let directory = read_document(folder.path(), "HubConfig").expect_err("a directory");
    assert!(directory.to_string().ends_with("\n  can't read the file: Is a directory"), "{directory}");
}

#[test]
fn a_file_of_another_kind_is_refused_before_anything_else() {
    let problem = read(b"apiVersion: v1\nkind: AgentConfig\nnonsense: 1\n").expect_err("another kind");
    assert_eq!(
        problem,
        "  apiVersion: is 'v1', expected edgeway.dev/v1alpha1\n  kind: is 'AgentConfig', expected HubConfig"
    );
    let document = read(b"kind: HubConfig\n1: a\nb: [{true: x}]\n").expect("the rest is read");
    let problems: Vec<String> = document.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "keys are strings, but '1' is a number; quote it to make it a string",
            "b[0]: keys are strings, but 'true' is true or false; quote it to make it a string",
            "apiVersion: is missing, expected edgeway.dev/v1alpha1",
        ]
    );
}

#[test]
fn sections_that_nobody_takes_are_unknown() {
    let mut document = read(
        b"apiVersion: edgeway.dev/v1alpha1\nkind: HubConfig\nbase: &base {window: 1MiB}\nsection: {<<: *base}\nempty:\n",
    )
    .expect("a document");
    let section: Option<Section> = decode(document.take("section"), "section", &mut document.problems);
    assert_eq!(section.expect("merged").window, Some(Size(1 << 20)));
    assert_eq!(document.take("empty"), Value::Mapping(Mapping::new()));
    document.finish(&["section", "empty"]);
    let problems: Vec<String> = document.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, ["base: unknown field, allowed are: section, empty"]);
}
