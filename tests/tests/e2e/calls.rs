//! C1, C2 and C8: calls pass unchanged, both ways.

use crate::{
    raw::{self, Caller},
    service::Service,
    world::{ECHO, Plan, http},
};

/// The head that the service saw, line by line, without those that plugin `rest` adds.
fn seen(answer: &raw::Answer) -> Vec<String> {
    let text: String = answer.body.iter().copied().map(char::from).collect();
    let added = ["forwarded:", "x-forwarded-", "via:", "traceparent:"];
    let head = text.split("\r\n\r\n").next().expect("a head");
    head.lines().filter(|line| !added.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
}

#[tokio::test]
async fn paths_and_queries_pass_raw_and_are_never_normalised() {
    let mirror = Service::mirror().await;
    let world = Plan::default().node("berlin-1", http("mirror", mirror.address)).start().await;
    for path in [
        "/a%00b",
        "/../..//x/./y",
        "/%2e%2e/%2F",
        "/%ff%fe",
        "/with%20space+plus",
        "/?",
        "/?a=1&a=2&&b=%00",
        "/;matrix=1",
        "/~!$&'()*,:@",
    ] {
        let answer = raw::get(world.rest, &format!("/any/mirror{path}")).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert_eq!(seen(&answer)[0], format!("GET {path} HTTP/1.1"));
    }
    let answer = raw::get(world.rest, "/any/mirror").await;
    assert_eq!(seen(&answer)[0], "GET / HTTP/1.1", "nothing left of the path is the root");
    let answer = raw::get(world.rest, "/any/mirror?q=1").await;
    assert_eq!(seen(&answer)[0], "GET /?q=1 HTTP/1.1");
    world.shutdown().await;
}

#[tokio::test]
async fn exact_and_prefix_routes_leave_the_path_as_it_is() {
    let mirror = Service::mirror().await;
    let plan = Plan {
        routes: "
- {name: exact, plugin: rest, matches: [{path: {type: Exact, value: /one}}], to: {service: mirror}}
- {name: prefix, plugin: rest, matches: [{path: {type: PathPrefix, value: /many}}], to: {service: mirror}}
- {name: host, plugin: rest, hostnames: [other.test], matches: [{path: {type: PathPrefix, value: /}, method: PUT}], to: {service: mirror}}
"
        .into(),
        ..Plan::default()
    };
    let world = plan.node("berlin-1", http("mirror", mirror.address)).start().await;
    for (path, status) in
        [("/one", 200), ("/one/more", 404), ("/many", 200), ("/many/x?y", 200), ("/manyx", 404)]
    {
        let answer = raw::get(world.rest, path).await;
        assert_eq!(answer.status, status, "{path}");
        if status == 200 {
            assert_eq!(seen(&answer)[0], format!("GET {path} HTTP/1.1"));
        }
    }
    let put =
        "PUT /anything HTTP/1.1\r\nHost: Other.Test:8080\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(raw::call(world.rest, put).await.status, 200);
    raw::call(world.rest, put.replace("PUT", "DELETE")).await.assert_fault(404, "no_route");
    raw::call(world.rest, put.replace("Other.Test", "e2e")).await.assert_fault(404, "no_route");
    world.shutdown().await;
}

#[tokio::test]
async fn headers_pass_in_order_and_as_bytes_and_hop_by_hop_ones_do_not() {
    let mirror = Service::mirror().await;
    let world = Plan::default().node("berlin-1", http("mirror", mirror.address)).start().await;
    let mut request =
        b"GET /any/mirror/x HTTP/1.1\r\nHost: e2e\r\nX-One: 1\r\nX-Bytes: \xff\xfe\r\nX-One: 2\r\n".to_vec();
    request
        .extend_from_slice(b"X-Empty:\r\nConnection: close, X-Private\r\nX-Private: 1\r\nKeep-Alive: 5\r\n");
    request.extend_from_slice(b"Proxy-Authorization: secret\r\nProxy-Connection: x\r\nTE: trailers\r\n\r\n");
    let answer = raw::call(world.rest, request).await;
    let seen = seen(&answer);
    let values = |name: &str| -> Vec<&str> {
        seen.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim).collect()
    };
    assert_eq!(values("x-one"), ["1", "2"]);
    assert_eq!(values("x-bytes"), ["\u{ff}\u{fe}"]);
    assert_eq!(values("x-empty"), [""]);
    assert_eq!(values("host"), ["e2e"]);
    for gone in ["x-private", "keep-alive", "proxy-connection"] {
        assert!(values(gone).is_empty(), "{gone} was passed on: {seen:?}");
    }
    // The agent's own: who sends TE has to name it (RFC 9110, section 10.1.4).
    assert_eq!(values("connection"), ["te"]);
    world.shutdown().await;
}

#[tokio::test]
async fn the_service_learns_who_called_and_through_what() {
    let mirror = Service::mirror().await;
    let world = Plan::default().node("berlin-1", http("mirror", mirror.address)).start().await;
    let request = "GET /any/mirror/ HTTP/1.1\r\nHost: api.test\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n";
    let answer = raw::call(world.rest, request).await;
    let text = answer.text();
    for line in
        ["x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n", "x-forwarded-host: api.test\r\n"]
    {
        assert!(text.contains(line), "{line:?} is not in {text}");
    }
    assert!(!text.contains("6.6.6.6"), "a caller's own word was believed: {text}");
    assert!(text.contains("\r\nvia: 1.1 ") && text.contains("\r\nforwarded: "), "{text}");
    let trace = text.lines().find_map(|line| line.strip_prefix("traceparent: ")).expect("a traceparent");
    assert!(trace.starts_with("00-") && trace.len() == 55, "{trace}");
    world.shutdown().await;
}

#[tokio::test]
async fn absent_zero_known_and_unknown_body_lengths_stay_apart() {
    let mirror = Service::mirror().await;
    let world = Plan::default().node("berlin-1", http("mirror", mirror.address)).start().await;
    for (headers, body, expected) in [
        ("", "", [false, false]),
        ("Content-Length: 0\r\n", "", [true, false]),
        ("Content-Length: 5\r\n", "hello", [true, false]),
        ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", [false, true]),
    ] {
        let request =
            format!("PUT /any/mirror/ HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n{headers}\r\n{body}");
        let answer = raw::call(world.rest, request).await;
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let lower = text.split("\r\n\r\n").next().expect("a head").to_ascii_lowercase();
        let framing =
            [lower.contains("\r\ncontent-length:"), lower.contains("\r\ntransfer-encoding: chunked")];
        assert_eq!(framing, expected, "{headers:?} became {text:?}");
        assert_eq!(text.contains("hello"), headers.contains('5') || headers.contains("chunked"));
    }

    for (head, known, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true, ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", true, "hello"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false, "hello"),
    ] {
        let service = Service::answering(head).await;
        let agent = world.start_agent("sizes-1", &http("sizes", service.address), "").await;
        let answer = raw::get(world.rest, "/nodes/sizes-1/sizes").await;
        assert_eq!((answer.text(), answer.complete), (body, true));
        assert_eq!(!answer.header("content-length").is_empty(), known, "{answer:?}");
        agent.shutdown().await;
    }
    world.shutdown().await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let service = Service::start(|mut connection| async move {
        let request = connection.request().await.expect("a request");
        let seen = request.body.ends_with(b"0\r\nx-sum: 42\r\n\r\n");
        connection.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n").await;
        connection.send(format!("5\r\n{seen:5}\r\n0\r\nx-end: yes\r\n\r\n")).await;
    })
    .await;
    let world = Plan::default().node("berlin-1", http("trailers", service.address)).start().await;
    let request = "POST /any/trailers/ HTTP/1.1\r\nHost: e2e\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
                   Trailer: x-sum\r\nConnection: close, te\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n";
    let answer = raw::call(world.rest, request).await;
    assert_eq!(answer.text().trim(), "true", "the service saw no trailers");
    assert_eq!(answer.trailers, [("x-end".to_owned(), b"yes".to_vec())]);
    world.shutdown().await;
}

#[tokio::test]
async fn a_services_own_errors_pass_untouched() {
    for status in [400, 404, 418, 429, 500, 502, 503, 504, 599] {
        let body = format!("<html>{status} of the service</html>");
        let service = Service::answering(format!(
            "HTTP/1.1 {status} Its Own\r\ncontent-type: text/html\r\nretry-after: 7\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
        let world = Plan::default().node("berlin-1", http("moody", service.address)).start().await;
        let answer = raw::get(world.rest, "/any/moody").await;
        assert_eq!((answer.status, answer.text()), (status, body.as_str()));
        assert_eq!((answer.header("content-type"), answer.header("retry-after")), ("text/html", "7"));
        assert_eq!(answer.header("edgeway-fault"), "", "a service's own error is no fault of ours");
    }
}

#[tokio::test]
async fn answers_without_a_body_by_definition_have_none() {
    let service = Service::start(|mut connection| async move {
        while let Some(head) = connection.head().await {
            let answer = if head.contains(" /304") {
                "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n"
            } else if head.contains(" /204") {
                "HTTP/1.1 204 No Content\r\n\r\n"
            } else {
                "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"
            };
            connection.send(answer).await;
        }
    })
    .await;
    let world = Plan::default().node("berlin-1", http("bare", service.address)).start().await;
    let mut caller = Caller::connect(world.rest).await;
    caller.send("HEAD /any/bare/ HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    let answer = caller.answer_to_head().await.expect("an answer");
    assert_eq!((answer.status, answer.header("content-length")), (200, "1234"));
    for status in [204, 304] {
        // On one connection: a stray byte of a body would spoil the next answer.
        caller.send(format!("GET /any/bare/{status} HTTP/1.1\r\nHost: e2e\r\n\r\n")).await;
        let answer = caller.answer().await.expect("an answer");
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("transfer-encoding"), "");
    }
    world.shutdown().await;
}

#[tokio::test]
async fn an_interim_answer_is_passed_on_or_skipped_but_never_the_final_one() {
    let service = Service::answering(
        "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal",
    )
    .await;
    let world = Plan::default().node("berlin-1", http("hints", service.address)).start().await;
    let answer = raw::get(world.rest, "/any/hints").await;
    assert_eq!((answer.status, answer.text()), (200, "final"));
    assert!(answer.interim.iter().all(|&status| status == 103), "{:?}", answer.interim);
    world.shutdown().await;
}

#[tokio::test]
async fn a_body_waits_for_the_services_100_continue() {
    let service = Service::start(|mut connection| async move {
        let head = connection.head().await.expect("a head");
        assert!(head.to_ascii_lowercase().contains("\r\nexpect: 100-continue\r\n"), "{head}");
        if head.contains(" /refused") {
            connection.send("HTTP/1.1 417 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            return;
        }
        connection.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = connection.some().await.expect("a body");
        connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await;
        connection.send(body).await;
    })
    .await;
    let world = Plan::default().node("berlin-1", http("careful", service.address)).start().await;
    let request = |path: &str| {
        format!(
            "PUT /any/careful/{path} HTTP/1.1\r\nHost: e2e\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut caller = Caller::connect(world.rest).await;
    caller.send(request("wanted")).await;
    assert_eq!(caller.head().await.expect("an interim answer").status, 100);
    caller.send("hello").await;
    assert_eq!(caller.answer().await.expect("an answer").text(), "hello");

    let mut caller = Caller::connect(world.rest).await;
    caller.send(request("refused")).await;
    let answer = caller.answer().await.expect("an answer");
    assert_eq!((answer.status, answer.interim.as_slice()), (417, &[][..]), "the service wanted no body");
    world.shutdown().await;
}

#[tokio::test]
async fn the_built_in_echo_returns_any_body() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    for size in [0, 1, 1000, 100_000, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[at as usize % 3]).collect();
        let answer = raw::post(world.rest, "/any/echo", &body).await;
        assert!(answer.status == 200 && answer.complete && answer.body == body, "{size} bytes");
    }
    world.shutdown().await;
}
