//! `echo`: answers every request with what arrived, as JSON.
//!
//! Nothing is decoded or sorted, so that what a path or a header looked like on arrival can be seen. The body is counted
//! and hashed as it streams in; it is not kept.

use edgeway_proto::NodeName;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Answer, files::Intake, json, text};

pub(super) async fn answer(request: Request<Incoming>, node: &NodeName) -> Response<Answer> {
    let (head, body) = request.into_parts();
    let intake = match Intake::read(body).await {
        Ok(intake) => intake,
        Err(error) => {
            return text(StatusCode::BAD_REQUEST, format!("the request's body broke off: {error}\n"));
        }
    };
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    // In HTTP/2 the host travels in the authority; callers look for it among the headers.
    let authority = match (head.headers.get(http::header::HOST), head.uri.authority()) {
        (None, Some(authority)) => Some(("host".to_owned(), authority.as_str().to_owned())),
        _ => None,
    };
    let headers: Vec<_> = authority.into_iter().chain(pairs(&head.headers)).collect();
    let mut out = String::from("{\n");
    let mut field = |name: &str, value: String, last: bool| {
        out.push_str(&format!("  {}: {value}{}\n", quoted(name), if last { "" } else { "," }));
    };
    field("node", quoted(node.as_str()), false);
    field("service", quoted("echo"), false);
    field("method", quoted(head.method.as_str()), false);
    field("path", quoted(target), false);
    field("version", quoted(&format!("{:?}", head.version)), false);
    field("headers", list(&headers), false);
    field("body", format!("{{\"bytes\": {}, \"sha256\": {}}}", intake.bytes, quoted(&intake.sha256)), false);
    field("trailers", list(&pairs(&intake.trailers).collect::<Vec<_>>()), true);
    out.push_str("}\n");
    json(out)
}

/// Name and value of each header in order, repeated ones included. Bytes beyond ASCII become the characters of the same
/// number, so that no byte is lost.
fn pairs(headers: &HeaderMap<HeaderValue>) -> impl Iterator<Item = (String, String)> + '_ {
    headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), value.as_bytes().iter().map(|&byte| char::from(byte)).collect())
    })
}

/// One pair on a line: readable in a terminal, and still JSON.
fn list(pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return "[]".to_owned();
    }
    let lines: Vec<_> =
        pairs.iter().map(|(name, value)| format!("    [{}, {}]", quoted(name), quoted(value))).collect();
    format!("[\n{}\n  ]", lines.join(",\n"))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
