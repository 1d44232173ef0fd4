//! Heads: from the form in which calls travel to the form that each protocol wants, and back.
//!
//! A call's head has a URI in origin form, a `host` header and nothing that belongs to one hop only, but for an upgrade.
//! The functions here may be applied one after the other to the same request: a retry may meet another protocol.

use edgeway_plugin::{Body, Fault};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    request::Parts,
    uri::{Authority, Scheme as UriScheme},
};
use http_body::Body as _;

use crate::{
    config::{Scheme, Settings},
    fault::bad_request,
};

/// What a request's head says about its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// No body at all, or one of declared length zero.
    None,
    /// This many bytes, more than zero.
    Known(u64),
    /// As many as come.
    Unknown,
}

/// What matters of a request's head for how it is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outline {
    /// The caller asks to switch protocols; the body is what it sends afterwards.
    pub(crate) upgrade: bool,
    pub(crate) length: Length,
    /// The body is to wait for the service's `100 Continue`.
    pub(crate) expects: bool,
}

/// Reads the outline, and refuses what could be understood in two ways.
pub(crate) fn outline(parts: &mut Parts, body: &Body) -> Result<Outline, Fault> {
    if parts.method == Method::CONNECT {
        return Err(Fault::with_detail(
            edgeway_plugin::FaultCode::Unsupported,
            "CONNECT is for proxies; an http service is none",
        ));
    }
    let upgrade = parts.headers.contains_key(UPGRADE) && has_token(&parts.headers, &CONNECTION, "upgrade");
    let declared = declared_length(&mut parts.headers)?;
    let length = match declared {
        _ if upgrade => Length::None,
        Some(0) => Length::None,
        // The service would wait for these bytes, or take those of the next request for them.
        Some(declared) if body.is_end_stream() => {
            return Err(bad_request(format!("content-length is {declared}, but there is no body")));
        }
        Some(declared) => Length::Known(declared),
        None if body.is_end_stream() => Length::None,
        None => Length::Unknown,
    };
    let expects = length != Length::None
        && parts
            .headers
            .get(EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Ok(Outline { upgrade, length, expects })
}

/// The declared length. Repeated equal declarations become one (RFC 9110, section 8.6).
fn declared_length(headers: &mut HeaderMap) -> Result<Option<u64>, Fault> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let more = values.next().is_some();
    let invalid = || bad_request("content-length is not one number");
    let parse = |value: &HeaderValue| {
        let text = value
            .to_str()
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))?;
        text.parse::<u64>().ok()
    };
    let length = parse(first).ok_or_else(invalid)?;
    if more {
        if headers.get_all(CONTENT_LENGTH).iter().any(|value| parse(value) != Some(length)) {
            return Err(invalid());
        }
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(Some(length))
}

/// Origin form, `host` header, chunks where the length is not known.
pub(crate) fn for_http1<B>(request: &mut Request<B>, outline: &Outline, settings: &Settings) {
    *request.version_mut() = Version::HTTP_11;
    let asked = request.uri().authority().cloned();
    if asked.is_some() || request.uri().scheme().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
    }
    let headers = request.headers_mut();
    if let Some(rewrite) = &settings.rewrite {
        headers.insert(HOST, rewrite.header.clone());
    } else if !headers.contains_key(HOST) {
        let host = asked.and_then(|asked| HeaderValue::from_str(asked.as_str()).ok());
        headers.insert(HOST, host.unwrap_or_else(|| settings.own_host.header.clone()));
    }
    if !outline.upgrade {
        headers.remove(UPGRADE);
        // TE holds for one hop, and must be named as such (RFC 9110, section 10.1.4).
        if headers.contains_key(TE) {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        } else {
            headers.remove(CONNECTION);
        }
    }
    if outline.length == Length::Unknown {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else {
        headers.remove(TRANSFER_ENCODING);
    }
}

/// Absolute form, no `host` header.
///
/// # Errors
/// The host is none that a URI could have.
pub(crate) fn for_http2<B>(request: &mut Request<B>, settings: &Settings) -> Result<(), Fault> {
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let asked = headers.remove(HOST);
    if request.uri().authority().is_some() && settings.rewrite.is_none() {
        return Ok(());
    }
    let authority = match (&settings.rewrite, asked) {
        (Some(rewrite), _) => rewrite.authority.clone(),
        (None, Some(host)) => {
            Authority::try_from(host.as_bytes()).map_err(|_| bad_request("the host header is not valid"))?
        }
        (None, None) => settings.own_host.authority.clone(),
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if settings.scheme == Scheme::Https { UriScheme::HTTPS } else { UriScheme::HTTP });
    parts.authority = Some(authority);
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|_| bad_request("the request target is not valid"))?;
    Ok(())
}

/// Takes what belongs to this hop out of an answer.
pub(crate) fn clean_answer<B>(response: &mut Response<B>) {
    static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

    response.extensions_mut().clear();
    let headers = response.headers_mut();
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter_map(|token| HeaderName::from_bytes(token).ok())
            // These say what the answer is; to lose them would change it.
            .filter(|name| !matches!(*name, CONTENT_LENGTH | TRAILER | PROXY_AUTHENTICATE))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
}

/// Whether a list header has this token.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token.as_bytes()))
}

/// The tokens of a list header, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HttpServiceConfig;

    fn settings(section: serde_json::Value) -> Settings {
        Settings::validate(serde_json::from_value::<HttpServiceConfig>(section).unwrap()).unwrap()
    }

    fn outline_of(request: Request<Body>) -> Result<Outline, Fault> {
        let (mut parts, body) = request.into_parts();
        outline(&mut parts, &body)
    }

    #[test]
    fn lengths_stay_apart() {
        let request = |length: Option<&str>, body| {
            let mut request = Request::post("/").body(body).unwrap();
            if let Some(length) = length {
                request.headers_mut().insert(CONTENT_LENGTH, length.parse().unwrap());
            }
            outline_of(request).map(|outline| outline.length)
        };
        assert_eq!(request(None, Body::empty()), Ok(Length::None));
        assert_eq!(request(Some("0"), Body::empty()), Ok(Length::None));
        assert_eq!(request(Some("2"), Body::from("ab")), Ok(Length::Known(2)));
        assert_eq!(request(None, Body::from("ab")), Ok(Length::Unknown));
        assert!(request(Some("2"), Body::empty()).is_err());
        for bad in ["", "+1", "1,1", "-1", "0x1", "18446744073709551616"] {
            assert!(request(Some(bad), Body::from("a")).is_err(), "{bad}");
        }
    }

    #[test]
    fn two_lengths_are_one_or_an_error() {
        let request = |second: &str| {
            let request = Request::post("/").header(CONTENT_LENGTH, "2").header(CONTENT_LENGTH, second);
            outline_of(request.body(Body::from("ab")).unwrap()).is_ok()
        };
        assert!(request("2"));
        assert!(!request("3"));
    }

    #[test]
    fn a_request_goes_from_one_protocol_to_the_other_and_back() {
        let settings = settings(serde_json::json!({"url": "http://127.0.0.1:9000"}));
        let mut request = Request::get("/a%2Fb/../c?x=%00").header(HOST, "api.example.com").body(()).unwrap();
        let outline = Outline { upgrade: false, length: Length::None, expects: false };
        for _ in 0..2 {
            for_http2(&mut request, &settings).unwrap();
            assert_eq!(request.uri(), "http://api.example.com/a%2Fb/../c?x=%00");
            assert!(!request.headers().contains_key(HOST));
            for_http1(&mut request, &outline, &settings);
            assert_eq!(request.uri(), "/a%2Fb/../c?x=%00");
            assert_eq!(request.headers()[HOST], "api.example.com");
        }
    }

    #[test]
    fn the_host_is_rewritten_in_both_protocols() {
        let settings =
            settings(serde_json::json!({"url": "https://127.0.0.1", "host": "orders.internal:8443"}));
        let mut request = Request::get("/").header(HOST, "api.example.com").body(()).unwrap();
        let outline = Outline { upgrade: false, length: Length::None, expects: false };
        for_http1(&mut request, &outline, &settings);
        assert_eq!(request.headers()[HOST], "orders.internal:8443");
        for_http2(&mut request, &settings).unwrap();
        assert_eq!(request.uri(), "https://orders.internal:8443/");
    }

    #[test]
    fn a_host_that_no_uri_has_is_a_bad_request() {
        let settings = settings(serde_json::json!({"url": "h2c://127.0.0.1"}));
        let mut request = Request::get("/").header(HOST, "a b").body(()).unwrap();
        assert_eq!(
            for_http2(&mut request, &settings).unwrap_err().code(),
            edgeway_plugin::FaultCode::BadRequest
        );
    }

    #[test]
    fn what_belongs_to_one_hop_does_not_pass() {
        let mut response = Response::builder()
            .header(CONNECTION, "close, X-Hop")
            .header(CONNECTION, "keep-alive")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=5")
            .header(TRANSFER_ENCODING, "chunked")
            .header(TRAILER, "x-sum")
            .header("x-kept", "1")
            .body(())
            .unwrap();
        clean_answer(&mut response);
        let names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["trailer", "x-kept"]);
    }
}
