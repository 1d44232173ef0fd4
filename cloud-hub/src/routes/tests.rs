use std::cmp::Reverse;

use proptest::prelude::*;

use super::*;
use crate::config::{RouteMatch, RouteTarget};

/// `GET api.example.com /orders` and the like; host and method may be `*`.
fn route(name: &str, hosts: &[&str], kind: PathKind, method: &str, path: &str) -> RouteConfig {
    let path = PathPattern::new(kind, path).expect("a pattern");
    let word = |capture: &str| path.capture(capture).map(|_| Arc::from(capture));
    RouteConfig {
        origin: format!("routes[{name}]"),
        name: RouteName::new(name).expect("a name"),
        plugin: "rest".into(),
        hostnames: hosts.iter().map(|host| Hostname::new(host).expect("a hostname")).collect(),
        to: RouteTarget {
            service: word("service")
                .map_or_else(|| Word::Name(ServiceName::new("orders").expect("a name")), Word::Capture),
            node: word("node").map(Word::Capture),
            match_labels: [("site".to_owned(), "berlin".to_owned())].into(),
            balance: Balance::LeastRequests,
        },
        matches: vec![RouteMatch {
            path,
            method: (method != "*").then(|| method.parse().expect("a method")),
        }],
        timeouts: RouteTimeouts { request: None, idle: None },
        idempotent: false,
        limits: RouteLimits { calls: 1 },
    }
}

fn table(routes: Vec<RouteConfig>) -> RouteTable<usize> {
    RouteTable::compile(routes, |route| route.name.as_str().len()).expect("no collision")
}

/// The name of the route that takes a call, and what the service sees of the path.
fn taken<'a>(
    table: &RouteTable<usize>,
    host: Option<&str>,
    method: &str,
    path: &'a str,
) -> Option<(String, &'a str)> {
    let found = table.find("rest", host, &method.parse().expect("a method"), path)?;
    Some((found.route.name.to_string(), &path[found.strip..]))
}

fn name_of(table: &RouteTable<usize>, host: Option<&str>, method: &str, path: &str) -> Option<String> {
    taken(table, host, method, path).map(|(name, _)| name)
}

use PathKind::{Exact, PathPrefix, Template};

#[test]
fn a_prefix_matches_whole_segments_only() {
    let table = table(vec![route("orders", &[], PathPrefix, "*", "/orders")]);
    for path in ["/orders", "/orders/", "/orders/7", "/orders//", "/orders/../x", "/orders/%2F"] {
        assert_eq!(name_of(&table, None, "GET", path).as_deref(), Some("orders"), "{path}");
    }
    for path in
        ["/ordersx", "/order", "/", "", "*", "/Orders", "/%6Frders", "//orders", "orders", "/orders%2F7"]
    {
        assert_eq!(name_of(&table, None, "GET", path), None, "{path}");
    }
}

#[test]
fn a_slash_at_the_end_counts_for_exact_only() {
    let table = table(vec![
        route("exact", &[], Exact, "*", "/a"),
        route("exact-slash", &[], Exact, "*", "/b/"),
        route("prefix-slash", &[], PathPrefix, "*", "/c/"),
        route("root", &[], Exact, "*", "/"),
    ]);
    let name = |path| name_of(&table, None, "GET", path);
    assert_eq!(name("/a").as_deref(), Some("exact"));
    assert_eq!(name("/a/"), None);
    assert_eq!(name("/b/").as_deref(), Some("exact-slash"));
    assert_eq!(name("/b"), None);
    assert_eq!(name("/c").as_deref(), Some("prefix-slash"));
    assert_eq!(name("/c/x").as_deref(), Some("prefix-slash"));
    assert_eq!(name("/").as_deref(), Some("root"));
    assert_eq!(name("//"), None);
}

#[test]
fn every_path_matches_the_root_prefix() {
    let table = table(vec![route("all", &[], PathPrefix, "*", "/")]);
    for path in ["/", "//", "/a", "/a/b/../c%00"] {
        assert_eq!(taken(&table, None, "BREW", path), Some(("all".into(), path)));
    }
    assert_eq!(name_of(&table, None, "OPTIONS", "*"), None, "an asterisk is no path");
}

#[test]
fn the_most_specific_route_wins() {
    let table = table(vec![
        route("all", &[], PathPrefix, "*", "/"),
        route("prefix", &[], PathPrefix, "*", "/a"),
        route("deeper", &[], PathPrefix, "*", "/a/b"),
        route("exact", &[], Exact, "*", "/a/b"),
        route("exact-post", &[], Exact, "POST", "/a/b"),
        route("captured", &[], Template, "*", "/{service}/b/c"),
        route("captured-right", &[], Template, "*", "/x/{service}/c"),
        route("captured-left", &[], Template, "*", "/{service}/y/c"),
    ]);
    let name = |method, path| name_of(&table, None, method, path).expect("a route");
    assert_eq!(name("GET", "/z"), "all");
    assert_eq!(name("GET", "/a"), "prefix");
    assert_eq!(name("GET", "/a/x"), "prefix");
    assert_eq!(name("GET", "/a/b"), "exact");
    assert_eq!(name("POST", "/a/b"), "exact-post");
    assert_eq!(name("GET", "/a/b/d"), "deeper");
    assert_eq!(name("GET", "/a/b/c"), "captured", "more segments beat literals");
    assert_eq!(name("GET", "/x/y/c"), "captured-right", "from the left, a literal beats a capture");
}

#[test]
fn a_route_that_does_not_take_the_method_is_passed_over() {
    let table = table(vec![
        route("all", &[], PathPrefix, "*", "/"),
        route("posted", &[], Exact, "POST", "/a/b/c"),
        route("captured", &[], Template, "PUT", "/a/{service}/c"),
        route("prefix", &[], PathPrefix, "GET", "/a"),
    ]);
    let name = |method| name_of(&table, None, method, "/a/b/c").expect("a route");
    assert_eq!(
        [name("POST"), name("PUT"), name("GET"), name("DELETE")],
        ["posted", "captured", "prefix", "all"]
    );
}

#[test]
fn a_host_of_its_own_beats_no_host() {
    let table = table(vec![
        route("any", &[], Exact, "*", "/a/b"),
        route("api", &["api.example.com", "api.example.org"], PathPrefix, "*", "/a"),
    ]);
    for host in ["api.example.com", "API.Example.ORG:8080", "api.example.com."] {
        assert_eq!(name_of(&table, Some(host), "GET", "/a/b").as_deref(), Some("api"), "{host}");
        assert_eq!(name_of(&table, Some(host), "GET", "/b"), None, "{host}");
    }
    let long = "x".repeat(70_000);
    for host in
        [None, Some("example.com"), Some(""), Some("[::1]:80"), Some("xapi.example.com"), Some(long.as_str())]
    {
        assert_eq!(name_of(&table, host, "GET", "/a/b").as_deref(), Some("any"), "{host:?}");
    }
}

#[test]
fn routes_of_another_plugin_are_not_found() {
    let mut other = route("other", &[], PathPrefix, "*", "/");
    other.plugin = "echo".into();
    let table = table(vec![other, route("orders", &[], PathPrefix, "*", "/orders")]);
    assert_eq!(name_of(&table, None, "GET", "/x"), None);
    assert!(table.find("echo", None, &Method::GET, "/orders").is_some_and(|found| found.route.state == 5));
    assert!(table.find("mqtt", None, &Method::GET, "/").is_none());
    assert_eq!(table.routes().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["other", "orders"]);
    assert!(RouteTable::<usize>::default().find("rest", None, &Method::GET, "/").is_none());
}

#[test]
fn a_template_names_node_and_service_and_is_stripped() {
    let table = table(vec![route("any-node", &[], Template, "*", "/nodes/{node}/{service}")]);
    for (path, rest) in [
        ("/nodes/berlin-1/orders/7", "/7"),
        ("/nodes/berlin-1/orders", ""),
        ("/nodes/berlin-1/orders/", "/"),
        ("/nodes/berlin-1/orders//a/../%2F", "//a/../%2F"),
    ] {
        assert_eq!(taken(&table, None, "GET", path), Some(("any-node".into(), rest)));
        let found = table.find("rest", None, &Method::GET, path).expect("a route");
        assert_eq!(found.service().expect("a service").as_str(), "orders");
        let (selector, fixed) = found.selector().expect("a node");
        assert_eq!(selector.name.as_ref().map(NodeName::as_str), Some("berlin-1"));
        assert_eq!(selector.match_labels["site"], "berlin");
        assert!(!fixed);
    }
    assert_eq!(taken(&table, None, "GET", "/nodes/berlin-1"), None);
}

#[test]
fn what_can_be_no_name_is_unknown() {
    let table = table(vec![route("any-node", &[], Template, "*", "/nodes/{node}/{service}")]);
    let long = "x".repeat(254);
    for bad in ["", "..", "Berlin", "a%2Fb", "a b", &long] {
        let found = table.find("rest", None, &Method::GET, &format!("/nodes/{bad}/orders")).expect("a route");
        assert_eq!(
            Fault::from(found.selector().expect_err("no name")).code(),
            FaultCode::UnknownNode,
            "{bad:?}"
        );
        assert!(found.service().is_ok());
        let found = table.find("rest", None, &Method::GET, &format!("/nodes/a/{bad}")).expect("a route");
        assert_eq!(
            Fault::from(found.service().expect_err("no name")).code(),
            FaultCode::UnknownService,
            "{bad:?}"
        );
    }
}

#[test]
fn a_route_without_captures_selects_the_same_for_every_call() {
    let table = table(vec![route("orders", &[], PathPrefix, "*", "/orders")]);
    let found = table.find("rest", None, &Method::GET, "/orders/7").expect("a route");
    assert_eq!((found.strip, found.service().expect("a service").as_str()), (0, "orders"));
    let (selector, fixed) = found.selector().expect("a selector");
    assert!(fixed && selector.name.is_none() && selector.match_labels.len() == 1);
}

#[test]
fn routes_that_collide_are_named_both() {
    let mut twice = route("twice", &[], PathPrefix, "*", "/c/");
    twice.matches.push(twice.matches[0].clone());
    let problems = collisions(&[
        route("a", &["x.example", "y.example"], Exact, "GET", "/a"),
        route("b", &["z.example", "y.example", "x.example"], Exact, "GET", "/a"),
        route("c", &[], Template, "*", "/n/{node}/s"),
        route("d", &[], Template, "*", "/n/{service}/s/"),
        twice,
    ]);
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "routes[b].matches[0]: route 'b' takes the same calls as route 'a' (routes[a].matches[0]): GET on \
             y.example, Exact /a",
            "routes[d].matches[0]: route 'd' takes the same calls as route 'c' (routes[c].matches[0]): every method \
             on every host, Template /n/{service}/s/, which is the same as /n/{node}/s",
            "routes[twice].matches[1]: route 'twice' takes the same calls as route 'twice' (routes[twice].matches[0]): \
             every method on every host, PathPrefix /c/",
        ]
    );
}

#[test]
fn routes_that_a_rule_tells_apart_do_not_collide() {
    let mut other_plugin = route("plugin", &[], Exact, "*", "/a");
    other_plugin.plugin = "echo".into();
    let routes = [
        other_plugin,
        route("exact", &[], Exact, "*", "/a"),
        route("slash", &[], Exact, "*", "/a/"),
        route("prefix", &[], PathPrefix, "*", "/a"),
        route("method", &[], Exact, "GET", "/a"),
        route("host", &["x.example"], Exact, "*", "/a"),
        route("other-host", &["y.example"], Exact, "*", "/a"),
        route("captured", &[], Template, "*", "/{node}"),
        route("case", &[], Exact, "*", "/A"),
    ];
    assert_eq!(collisions(&routes), []);
}

/// What the rules in the module's documentation say, one route after the other. `None` for no match, else a rank.
fn rank(route: &RouteConfig, host: &str, method: &Method, path: &str) -> Option<impl Ord + use<>> {
    let named_host = route.hostnames.iter().any(|name| name.as_str() == host);
    if !route.hostnames.is_empty() && !named_host {
        return None;
    }
    let pattern = &route.matches[0];
    let text = pattern.path.to_string();
    let exact = pattern.path.kind() == Exact;
    let text = if exact { text.as_str() } else { text.strip_suffix('/').unwrap_or(&text) };
    let wanted: Vec<&str> = text.split('/').skip(1).collect();
    let given: Vec<&str> = path.split('/').skip(1).collect();
    let is_capture = |segment: &str| segment.starts_with('{');
    let fits = wanted.len() <= given.len()
        && wanted.iter().zip(&given).all(|(wanted, given)| is_capture(wanted) || wanted == given);
    if !fits || (exact && wanted.len() != given.len()) {
        return None;
    }
    if pattern.method.as_ref().is_some_and(|wanted| wanted != method) {
        return None;
    }
    let captures: Vec<Reverse<bool>> = wanted.iter().map(|segment| Reverse(is_capture(segment))).collect();
    Some((named_host, wanted.len(), captures, exact, pattern.method.is_some()))
}

fn any_segment() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("ab"), Just("")].prop_map(str::to_owned)
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(any_segment(), 1..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn any_host() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("x.example"), Just("y.example"), Just("z.example")]
}

fn any_method() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("GET"), Just("POST"), Just("PATCH")]
}

fn any_route() -> impl Strategy<Value = (Vec<&'static str>, PathKind, &'static str, String)> {
    let captured = |text: String| text.replace("ab", "{node}");
    let once = |text: &str| text.matches('{').count() == 1;
    let path = prop_oneof![
        any_path().prop_map(|path| (Exact, path)),
        any_path().prop_map(|path| (PathPrefix, path)),
        any_path()
            .prop_map(captured)
            .prop_filter("one capture", move |path| once(path))
            .prop_map(|path| (Template, path)),
    ];
    let method = prop_oneof![Just("*"), any_method()];
    (prop::collection::vec(any_host(), 0..3), path, method)
        .prop_map(|(hosts, (kind, path), method)| (hosts, kind, method, path))
}

proptest! {
    #[test]
    fn the_tree_takes_what_the_rules_take(
        routes in prop::collection::vec(any_route(), 1..40),
        calls in prop::collection::vec((any_host(), any_method(), any_path()), 1..40),
    ) {
        let mut kept: Vec<RouteConfig> = Vec::new();
        for (index, (hosts, kind, method, path)) in routes.iter().enumerate() {
            kept.push(route(&format!("r{index}"), hosts, *kind, method, path));
            if !collisions(&kept).is_empty() {
                kept.pop();
            }
        }
        let table = table(kept.clone());
        for (host, method, path) in calls {
            let method: Method = method.parse().expect("a method");
            let ranked = kept.iter().filter_map(|route| Some((rank(route, host, &method, &path)?, route)));
            let mut ranked: Vec<_> = ranked.collect();
            ranked.sort_by(|(one, _), (other, _)| other.cmp(one));
            let expected = ranked.first().map(|(_, route)| route.name.as_str());
            let found = table.find("rest", Some(host), &method, &path);
            prop_assert_eq!(found.as_ref().map(|found| found.route.name.as_str()), expected, "{} {} {}", method, host, path);
            if let [(first, _), (second, _), ..] = ranked.as_slice() {
                prop_assert!(first != second, "a collision went unseen: {} {} {}", method, host, path);
            }
        }
    }

    #[test]
    fn no_path_is_too_odd(path in "\\PC{0,60}|/(\\PC|/){0,60}") {
        let table = table(vec![
            route("any-node", &[], Template, "*", "/{node}/{service}"),
            route("all", &[], PathPrefix, "*", "/"),
        ]);
        if let Some(found) = table.find("rest", Some(&path), &Method::GET, &path) {
            prop_assert!(path.starts_with('/'));
            let rest = &path[found.strip..];
            prop_assert!(rest.is_empty() || rest.starts_with('/'));
        } else {
            prop_assert!(!path.starts_with('/'));
        }
    }
}
