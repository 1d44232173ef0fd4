//! The calls that the demo suggests: each one is printed as a line for a shell, and made and judged by `--once`, from the
//! same description, so that the two can't drift apart.

use http::Method;

use crate::client::Protocol;

/// One suggestion.
#[derive(Debug)]
pub(super) struct Example {
    /// What it shows.
    pub(super) title: &'static str,
    pub(super) ask: Ask,
    pub(super) expected: Expected,
}

/// A request to the hub's plugin `rest`.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) protocol: Protocol,
    pub(super) method: Method,
    /// Raw path and query.
    pub(super) target: &'static str,
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) content: Content,
    /// curl's options beside those that the rest implies.
    pub(super) options: &'static str,
}

/// What the request carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Nothing,
    Text(&'static str),
    /// The numbers from 1 up to this one, one a line, as `seq` prints them; of unknown length, as from a pipe.
    Numbers(u64),
}

/// What makes the answer right.
#[derive(Debug)]
pub(super) enum Expected {
    /// One of these nodes says that this method, path and body arrived.
    Echo { nodes: &'static [&'static str], method: &'static str, path: &'static str, body: &'static str },
    /// So many ticks of this node's clock, each when it is due.
    Ticks { node: &'static str, count: usize },
    /// So many bytes that fit the checksum in the header, or in header and trailer.
    Download { node: &'static str, bytes: u64, trailer: bool },
    /// This node counted and hashed what was sent.
    Upload { node: &'static str },
    /// The switch to WebSocket, and what is said comes back.
    Chat { node: &'static str },
    /// A fault of ours.
    Fault { status: u16, code: &'static str },
}

const BOTH: &[&str] = &["berlin-1", "tokyo-1"];

/// A plain GET; the others start from it.
const GET: Ask = Ask {
    protocol: Protocol::Http1,
    method: Method::GET,
    target: "/",
    headers: &[],
    content: Content::Nothing,
    options: "",
};

/// The headers that ask for a WebSocket (RFC 6455, section 4.1). The key is any 16 bytes in base64.
const UPGRADE: &[(&str, &str)] = &[
    ("connection", "upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "YW55IHNpeHRlZW4gYnl0ZQ=="),
];

/// All suggestions, in the order in which they are read.
pub(super) const EXAMPLES: &[Example] = &[
    Example {
        title: "A GET to the service echo on berlin-1",
        ask: Ask { target: "/nodes/berlin-1/echo/hello", ..GET },
        expected: Expected::Echo { nodes: &["berlin-1"], method: "GET", path: "/hello", body: "" },
    },
    Example {
        title: "A POST with a body to tokyo-1",
        ask: Ask {
            method: Method::POST,
            target: "/nodes/tokyo-1/echo/letters",
            headers: &[("content-type", "text/plain")],
            content: Content::Text("a letter to Tokyo"),
            ..GET
        },
        expected: Expected::Echo {
            nodes: &["tokyo-1"],
            method: "POST",
            path: "/letters",
            body: "a letter to Tokyo",
        },
    },
    Example {
        title: "Path and query arrive as they were sent",
        ask: Ask {
            target: "/nodes/berlin-1/echo/a%20b/..//%2F?x=1&x=2&y=%20",
            options: "--path-as-is",
            ..GET
        },
        expected: Expected::Echo {
            nodes: &["berlin-1"],
            method: "GET",
            path: "/a%20b/..//%2F?x=1&x=2&y=%20",
            body: "",
        },
    },
    Example {
        title: "Any node that offers echo, the one with the fewest calls in flight",
        ask: Ask { target: "/echo/whoever", ..GET },
        expected: Expected::Echo { nodes: BOTH, method: "GET", path: "/echo/whoever", body: "" },
    },
    Example {
        title: "Nodes with the label site=tokyo, over HTTP/2",
        ask: Ask { protocol: Protocol::Http2, target: "/sites/tokyo/7", ..GET },
        expected: Expected::Echo { nodes: &["tokyo-1"], method: "GET", path: "/sites/tokyo/7", body: "" },
    },
    Example {
        title: "Server-Sent Events as they happen: three ticks (without ?ticks=3 it goes on)",
        ask: Ask { target: "/nodes/berlin-1/clock/?ticks=3", options: "-N", ..GET },
        expected: Expected::Ticks { node: "berlin-1", count: 3 },
    },
    Example {
        title: "A download; compare the sum with content-sha256 among the headers",
        ask: Ask { target: "/nodes/tokyo-1/files/10MiB", options: "-D /dev/stderr", ..GET },
        expected: Expected::Download { node: "tokyo-1", bytes: 10 << 20, trailer: false },
    },
    Example {
        title: "A larger one, whose sum comes as a trailer, after the last byte",
        ask: Ask {
            target: "/nodes/berlin-1/files/100MiB",
            headers: &[("te", "trailers")],
            options: "-D /dev/stderr",
            ..GET
        },
        expected: Expected::Download { node: "berlin-1", bytes: 100 << 20, trailer: true },
    },
    Example {
        title: "An upload of unknown length; the second line says which sum is right",
        ask: Ask {
            method: Method::PUT,
            target: "/nodes/tokyo-1/files/numbers",
            content: Content::Numbers(1_000_000),
            ..GET
        },
        expected: Expected::Upload { node: "tokyo-1" },
    },
    Example {
        title: "The switch to WebSocket; the service says good-bye after a second",
        ask: Ask { target: "/nodes/berlin-1/chat/?seconds=1", headers: UPGRADE, options: "-i -N", ..GET },
        expected: Expected::Chat { node: "berlin-1" },
    },
    Example {
        title: "A fault: no such node",
        ask: Ask { target: "/nodes/atlantis-1/echo/hello", options: "-i", ..GET },
        expected: Expected::Fault { status: 404, code: "unknown_node" },
    },
    Example {
        title: "A fault: no such service on the node",
        ask: Ask { target: "/nodes/berlin-1/printer/hello", options: "-i", ..GET },
        expected: Expected::Fault { status: 404, code: "unknown_service" },
    },
    Example {
        title: "A fault: no route",
        ask: Ask { target: "/nowhere", options: "-i", ..GET },
        expected: Expected::Fault { status: 404, code: "no_route" },
    },
];

impl Example {
    /// The lines to paste, with `base` as in `http://127.0.0.1:8080`.
    pub(super) fn lines(&self, base: &str) -> Vec<String> {
        let mut line = String::from("curl -sS");
        let mut add = |word: &str| {
            line.push(' ');
            line.push_str(word);
        };
        if !self.ask.options.is_empty() {
            add(self.ask.options);
        }
        if self.ask.protocol == Protocol::Http2 {
            add("--http2-prior-knowledge");
        }
        for (name, value) in self.ask.headers {
            add(&format!("-H '{name}: {value}'"));
        }
        match self.ask.content {
            Content::Nothing => {}
            // -d implies POST, -T implies PUT.
            Content::Text(text) => add(&format!("-d '{text}'")),
            Content::Numbers(_) => add("-T -"),
        }
        add(&format!("'{base}{}'", self.ask.target));
        if matches!(self.expected, Expected::Download { .. }) {
            add("| sha256sum");
        }
        match self.ask.content {
            Content::Numbers(last) => vec![format!("seq {last} | {line}"), format!("seq {last} | sha256sum")],
            _ => vec![line],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_the_request_is() {
        let lines: Vec<_> = EXAMPLES.iter().flat_map(|example| example.lines("http://h:1")).collect();
        assert_eq!(lines[0], "curl -sS 'http://h:1/nodes/berlin-1/echo/hello'");
        assert_eq!(
            lines[1],
            "curl -sS -H 'content-type: text/plain' -d 'a letter to Tokyo' 'http://h:1/nodes/tokyo-1/echo/letters'"
        );
        assert!(lines.iter().any(|line| line == "seq 1000000 | sha256sum"));
        assert!(lines.iter().all(|line| line.matches('\'').count() % 2 == 0), "{lines:?}");
    }

    #[test]
    fn what_curl_implies_is_what_is_meant() {
        for example in EXAMPLES {
            let implied = match example.ask.content {
                Content::Nothing => Method::GET,
                Content::Text(_) => Method::POST,
                Content::Numbers(_) => Method::PUT,
            };
            assert_eq!(example.ask.method, implied, "{}", example.title);
        }
    }
}
