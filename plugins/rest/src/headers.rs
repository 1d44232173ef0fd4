//! Headers at the border: which never pass, where a call goes, and what is told of its way.

use std::{fmt::Write, net::IpAddr};

use edgeway_plugin::{Fault, FaultCode};
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
        VIA,
    },
    uri::PathAndQuery,
};
use rand::RngCore;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Longest host with its port: that of a DNS name, or of an address in brackets with a zone, and then some.
const LONGEST_HOST: usize = 300;

/// Removes what concerns the caller's connection alone (RFC 9110, section 7.6.1), and all that `Connection` names.
/// Touches nothing where there is none of it.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most heads have none, and a look at each name is cheaper than a look-up of each of these.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    if headers.contains_key(CONNECTION) {
        // The usual options name no header that is not removed anyway; then this allocates nothing.
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|name| {
                ![&b"close"[..], b"keep-alive", b"upgrade", b"te"]
                    .iter()
                    .any(|usual| name.eq_ignore_ascii_case(usual))
            })
            .filter_map(|name| HeaderName::from_bytes(name).ok())
            .filter(|name| !is_end_to_end(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(UPGRADE);
    if headers.contains_key(TE) {
        if has_token(headers, &TE, "trailers") {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    [&CONNECTION, &TRANSFER_ENCODING, &UPGRADE, &TE, &KEEP_ALIVE, &PROXY_CONNECTION].contains(&name)
}

/// Headers that `Connection` can't take away: without them a message has another meaning or another length.
fn is_end_to_end(name: &HeaderName) -> bool {
    [&HOST, &CONTENT_LENGTH, &TRAILER, &EXPECT].contains(&name)
}

/// Removes from trailers what may stand in a head alone.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    for name in [TE, HOST, CONTENT_LENGTH, TRAILER, EXPECT] {
        trailers.remove(name);
    }
}

/// Whether a list (RFC 9110, section 5.6.1) holds a token, in any case.
pub(crate) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let items = |value: &HeaderValue| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    };
    headers.get_all(name).iter().any(items)
}

/// Refuses heads from which two readers could take different lengths. hyper has refused most of those already.
///
/// # Errors
/// [`FaultCode::BadRequest`], or [`FaultCode::Unsupported`] for a transfer coding other than `chunked`.
pub(crate) fn check_framing(headers: &HeaderMap, version: Version) -> Result<(), Fault> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        // HTTP/2 has no such header, and its parser refuses it; this is a second lock on the same door.
        let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        if version > Version::HTTP_11 || codings.next().is_some() {
            return Err(bad_request("the request has a transfer-encoding that no body can have"));
        }
        if !chunked {
            return Err(Fault::with_detail(
                FaultCode::Unsupported,
                "the request's body has a transfer coding other than 'chunked'",
            ));
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(bad_request("the request has both transfer-encoding and content-length"));
        }
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(bad_request("the request has two content-length headers"));
    }
    Ok(())
}

/// Finds out where the request goes, from its target and its `host`, and writes both in one form: the target as path and
/// query alone, the host as header. `local` stands in for the host that an HTTP/1.0 caller may leave out.
///
/// # Errors
/// [`FaultCode::BadRequest`] for none, for two, for two that differ, and for what is no host.
pub(crate) fn settle_target(
    uri: &mut Uri,
    headers: &mut HeaderMap,
    version: Version,
    local: &HeaderValue,
) -> Result<(), Fault> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(bad_request("the request has two host headers"));
    }
    if let Some(authority) = uri.authority() {
        let http = uri.scheme_str().is_some_and(|scheme| {
            scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https")
        });
        if !http {
            return Err(bad_request(
                "the request's target is neither a path nor an address of http or https",
            ));
        }
        let same = |host: &HeaderValue| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes());
        // RFC 9113, section 8.3.1. In HTTP/1 the target wins (RFC 9112, section 3.2.2).
        if version == Version::HTTP_2 && !host.is_none_or(same) {
            return Err(bad_request("the request's :authority and its host header differ"));
        }
        if !host.is_some_and(same) {
            let host = HeaderValue::from_str(authority.as_str())
                .map_err(|_| bad_request("the request's host is not one"))?;
            headers.insert(HOST, host);
        }
    } else if host.is_none() {
        if version > Version::HTTP_10 {
            return Err(bad_request("the request has no host header"));
        }
        headers.insert(HOST, local.clone());
    }
    if !headers.get(HOST).is_some_and(|host| is_host(host.as_bytes())) {
        return Err(bad_request("the request's host is not one"));
    }
    if uri.scheme().is_some() || uri.authority().is_some() {
        let parts = std::mem::take(uri).into_parts();
        *uri = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    }
    Ok(())
}

/// A name or address and perhaps a port (RFC 3986, section 3.2.2): nothing that could end a quotation or begin a path.
fn is_host(host: &[u8]) -> bool {
    let allowed = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte);
    !host.is_empty() && host.len() <= LONGEST_HOST && host.iter().all(allowed)
}

/// One header where HTTP/2 allows several (RFC 9113, section 8.2.3), since HTTP/1 does not.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_some() {
        let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
        let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
        headers.insert(COOKIE, joined.expect("values joined by what a value may hold"));
    }
}

/// Adds this hub to `Via` (RFC 9110, section 7.6.3).
pub(crate) fn add_via(headers: &mut HeaderMap, via: &HeaderValue) {
    headers.append(VIA, via.clone());
}

/// What of a caller does not change from call to call, in the form in which it is told.
#[derive(Debug)]
pub(crate) struct Origin {
    address: HeaderValue,
    /// `for=…;proto=…;host=`
    forwarded: String,
    scheme: HeaderValue,
}

impl Origin {
    pub(crate) fn new(address: IpAddr, secure: bool) -> Self {
        // An IPv4 caller on a socket of both families is known by its own address.
        let address = address.to_canonical();
        let scheme = if secure { "https" } else { "http" };
        let node = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        Self {
            address: HeaderValue::from_str(&address.to_string()).expect("addresses are visible ASCII"),
            forwarded: format!("for={node};proto={scheme};host="),
            scheme: HeaderValue::from_static(scheme),
        }
    }

    /// Sets `Forwarded` (RFC 7239) and `X-Forwarded-For`, `-Host` and `-Proto`: in place of what the caller says, or
    /// added to it where it is `trusted`. `host` is set and valid.
    pub(crate) fn tell(&self, headers: &mut HeaderMap, trusted: bool) {
        let host = headers.get(HOST).cloned().unwrap_or_else(|| HeaderValue::from_static(""));
        let mut forwarded = String::with_capacity(self.forwarded.len() + host.len() + 2);
        // Room for all that is added at the border, so that the map grows once.
        headers.reserve(6);
        // A host with a port is no token, so it is quoted always.
        let text = host.to_str().unwrap_or_default();
        write!(forwarded, "{}\"{text}\"", self.forwarded).expect("a string takes all");
        let forwarded = HeaderValue::try_from(forwarded).expect("a valid host in quotes");
        if trusted {
            append_item(headers, &X_FORWARDED_FOR, &self.address);
            append_item(headers, &FORWARDED, &forwarded);
            headers.entry(X_FORWARDED_HOST).or_insert(host);
            headers.entry(X_FORWARDED_PROTO).or_insert_with(|| self.scheme.clone());
        } else {
            remove_forwarded(headers);
            headers.insert(X_FORWARDED_FOR, self.address.clone());
            headers.insert(FORWARDED, forwarded);
            headers.insert(X_FORWARDED_HOST, host);
            headers.insert(X_FORWARDED_PROTO, self.scheme.clone());
        }
    }
}

/// All of the family, not only those that are set here: a service that believes one believes its relatives.
fn remove_forwarded(headers: &mut HeaderMap) {
    let forged = |name: &&HeaderName| name.as_str().starts_with("x-forwarded-");
    if headers.keys().any(|name| forged(&name)) {
        let names: Vec<HeaderName> = headers.keys().filter(forged).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
}

/// Adds an item to a list, on the list's one line: many services read the first line only.
fn append_item(headers: &mut HeaderMap, name: &HeaderName, item: &HeaderValue) {
    let mut list: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    list.push(item.as_bytes());
    let joined = HeaderValue::from_bytes(&list.join(&b", "[..]));
    headers.insert(name, joined.expect("values joined by what a value may hold"));
}

/// Begins a trace where the caller has none (W3C Trace Context, section 2.2). It is marked as sampled: services that
/// follow their parent would otherwise stop to record what they record without us.
pub(crate) fn begin_trace(headers: &mut HeaderMap) {
    if headers.contains_key(TRACEPARENT) {
        return;
    }
    let mut ids = [0; 24];
    rand::rng().fill_bytes(&mut ids);
    // An id of all zeros is invalid; one bit keeps that from ever happening.
    ids[15] |= 1;
    ids[23] |= 1;
    let mut text = [b'-'; 55];
    text[..2].copy_from_slice(b"00");
    text[53..].copy_from_slice(b"01");
    put_hex(&ids[..16], &mut text[3..35]);
    put_hex(&ids[16..], &mut text[36..52]);
    headers.insert(TRACEPARENT, HeaderValue::from_bytes(&text).expect("hexadecimal digits and dashes"));
    // A state belongs to the parent that it came with.
    headers.remove(TRACESTATE);
}

fn put_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, out) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        out[0] = DIGITS[usize::from(byte >> 4)];
        out[1] = DIGITS[usize::from(byte & 15)];
    }
}

pub(crate) fn bad_request(detail: &'static str) -> Fault {
    Fault::with_detail(FaultCode::BadRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(line) {
            headers.append(name, value);
        }
        headers
    }

    fn settle(
        uri: &str,
        lines: &[(&'static str, &'static str)],
        version: Version,
    ) -> Result<(String, String), Fault> {
        let mut uri = uri.parse().expect("a URI");
        let mut headers = headers(lines);
        settle_target(&mut uri, &mut headers, version, &HeaderValue::from_static("10.0.0.1:80"))?;
        Ok((uri.to_string(), headers["host"].to_str().expect("ASCII").to_owned()))
    }

    fn settled(uri: &str, host: &str) -> Result<(String, String), Fault> {
        Ok((uri.to_owned(), host.to_owned()))
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_are_removed() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "close,te"),
            ("x-private", "1"),
            ("x-kept", "2"),
            ("x-kept", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "gzip, Trailers"),
            ("trailer", "x-sum"),
        ]);
        remove_hop_by_hop(&mut map);
        assert_eq!(
            map,
            headers(&[("x-kept", "2"), ("x-kept", "3"), ("te", "trailers"), ("trailer", "x-sum")])
        );
        let mut map = headers(&[("te", "gzip")]);
        remove_hop_by_hop(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn connection_can_not_take_away_host_or_length() {
        let mut map =
            headers(&[("connection", "host, Content-Length"), ("host", "a"), ("content-length", "3")]);
        remove_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("host", "a"), ("content-length", "3")]));
    }

    #[test]
    fn target_and_host_are_settled_in_one_form() {
        let h1 = Version::HTTP_11;
        assert_eq!(settle("/a?b", &[("host", "x:80")], h1), settled("/a?b", "x:80"));
        assert_eq!(settle("http://y/a?b", &[("host", "x")], h1), settled("/a?b", "y"));
        assert_eq!(settle("http://y", &[], h1), settled("/", "y"));
        assert_eq!(settle("http://[::1]:8080/", &[], h1), settled("/", "[::1]:8080"));
        assert_eq!(settle("/a", &[], Version::HTTP_10), settled("/a", "10.0.0.1:80"));
        assert_eq!(settle("https://y/a", &[], Version::HTTP_2), settled("/a", "y"));
        assert_eq!(settle("https://y/a", &[("host", "Y")], Version::HTTP_2), settled("/a", "Y"));
        assert_eq!(settle("/a%00/../%ff//b", &[("host", "x")], h1), settled("/a%00/../%ff//b", "x"));
    }

    #[test]
    fn what_does_not_say_where_it_goes_is_a_bad_request() {
        let refuse = |uri: &str, lines: &[(&'static str, &'static str)], version| {
            let fault = settle(uri, lines, version).expect_err(uri);
            assert_eq!(fault.code(), FaultCode::BadRequest, "{uri} {lines:?}");
        };
        let h1 = Version::HTTP_11;
        refuse("/", &[], h1);
        refuse("/", &[("host", "")], h1);
        refuse("/", &[("host", "a"), ("host", "a")], h1);
        refuse("/", &[("host", "a\"b")], h1);
        refuse("/", &[("host", "a/b")], h1);
        refuse("http://user@a/", &[], h1);
        refuse("ftp://a/", &[], h1);
        refuse("https://a/", &[("host", "b")], Version::HTTP_2);
    }

    #[test]
    fn bodies_of_two_lengths_are_refused() {
        let check = |lines: &[(&'static str, &'static str)]| {
            check_framing(&headers(lines), Version::HTTP_11).err().map(|fault| fault.code())
        };
        assert_eq!(check(&[("transfer-encoding", "Chunked")]), None);
        assert_eq!(check(&[("content-length", "3")]), None);
        assert_eq!(check(&[("transfer-encoding", "gzip, chunked")]), Some(FaultCode::Unsupported));
        assert_eq!(
            check(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            Some(FaultCode::BadRequest)
        );
        assert_eq!(
            check(&[("transfer-encoding", "chunked"), ("content-length", "3")]),
            Some(FaultCode::BadRequest)
        );
        assert_eq!(check(&[("content-length", "3"), ("content-length", "3")]), Some(FaultCode::BadRequest));
    }

    #[test]
    fn a_stranger_can_not_forge_where_it_comes_from() {
        let origin = Origin::new("192.0.2.7".parse().expect("an address"), false);
        let mut map = headers(&[
            ("host", "api:8080"),
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "443"),
        ]);
        origin.tell(&mut map, false);
        let expected = headers(&[
            ("host", "api:8080"),
            ("forwarded", "for=192.0.2.7;proto=http;host=\"api:8080\""),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "api:8080"),
            ("x-forwarded-proto", "http"),
        ]);
        assert_eq!(map, expected);
    }

    #[test]
    fn what_a_trusted_proxy_says_is_kept_and_added_to() {
        let origin = Origin::new("::ffff:192.0.2.7".parse().expect("an address"), true);
        let mut map = headers(&[
            ("host", "api"),
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "http"),
        ]);
        origin.tell(&mut map, true);
        assert_eq!(map["x-forwarded-for"], "10.0.0.1, 10.0.0.2, 192.0.2.7");
        assert_eq!(map["forwarded"], "for=10.0.0.1, for=192.0.2.7;proto=https;host=\"api\"");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-host"], "api");
        let mut map = headers(&[("host", "api")]);
        Origin::new("2001:db8::1".parse().expect("an address"), true).tell(&mut map, true);
        assert_eq!(map["forwarded"], "for=\"[2001:db8::1]\";proto=https;host=\"api\"");
        assert_eq!(map["x-forwarded-for"], "2001:db8::1");
    }

    #[test]
    fn a_trace_is_begun_only_where_there_is_none() {
        let mut map = headers(&[("tracestate", "a=b")]);
        begin_trace(&mut map);
        let parent = map["traceparent"].to_str().expect("ASCII").to_owned();
        let parts: Vec<&str> = parent.split('-').collect();
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
        assert!(parent.bytes().all(|b| matches!(b, b'-' | b'0'..=b'9' | b'a'..=b'f')));
        assert!(!map.contains_key("tracestate"));
        begin_trace(&mut map);
        assert_eq!(map["traceparent"], parent);
        let mut other = HeaderMap::new();
        begin_trace(&mut other);
        assert_ne!(other["traceparent"], parent);
    }

    #[test]
    fn cookies_become_one_header() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
        join_cookies(&mut map);
        assert_eq!(map, headers(&[("cookie", "a=1; b=2; c=3")]));
    }
}
