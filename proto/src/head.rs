//! Heads of calls and answers: between HTTP types and the protobuf of the wire.
//!
//! Both directions go straight between a `HeaderMap` and protobuf, without the intermediate message, which was measured
//! to be a fifth of an agent's work for a small call. Tests hold them to what the generated types write and read. Decoding
//! checks every limit before it allocates.

use std::{ops::Range, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    ServiceName,
    fields::{FieldError, Fields},
    frame::{FrameType, put_header},
};

/// What a peer's head may contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Most header or trailer fields.
    pub headers: usize,
    /// Most bytes of all names and values together, and of a request target.
    pub bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        // As generous as the common HTTP servers: browsers and gateways stay far below, a flood does not pass.
        Self { headers: 128, bytes: 64 * 1024 }
    }
}

/// Why a head was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not protobuf of the expected message.
    #[error("head does not decode")]
    Malformed(#[from] FieldError),
    /// Too many fields.
    #[error("head has {0} header fields, at most {1} are allowed")]
    TooManyHeaders(usize, usize),
    /// Too many bytes.
    #[error("head has {0} bytes of header fields, at most {1} are allowed")]
    TooManyBytes(usize, usize),
    /// A name or value that HTTP does not allow (RFC 9110, section 5).
    #[error("header field {0} is not valid")]
    BadHeader(usize),
    /// A method that HTTP does not allow.
    #[error("method is not valid")]
    BadMethod,
    /// A target that HTTP does not allow.
    #[error("request target is not valid")]
    BadTarget,
    /// A status out of 100..=999.
    #[error("status {0} is not valid")]
    BadStatus(u32),
    /// Neither of the kinds of call that this build knows.
    #[error("kind of call is not known")]
    UnknownKind,
    /// A name that is not UTF-8.
    #[error("a name is not UTF-8")]
    NotText,
    /// A service name that is none.
    #[error("service name is not valid")]
    BadService,
}

/// What the head of a call says besides the request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallInfo {
    /// Unique within the process that made the call.
    pub id: u64,
    /// The call on whose behalf this one was made, 0 for none.
    pub parent: u64,
    /// The plugin that made it.
    pub plugin: Arc<str>,
    /// The route that was matched.
    pub route: Arc<str>,
    /// The service that is called.
    pub service: ServiceName,
    /// Milliseconds left, `None` for no deadline.
    pub remaining_ms: Option<u64>,
    /// 0 is ordinary; higher is sent first.
    pub priority: u32,
}

/// A call's head, decoded and valid.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "one at a time, and the large one is nearly every one")]
pub enum CallKind {
    /// An HTTP request, and whether a body follows.
    Http {
        /// Method, target and headers; the body is the caller's to add.
        request: http::request::Parts,
        /// False if no body follows at all.
        has_body: bool,
    },
    /// Raw bytes both ways.
    Pipe,
}

/// Encodes the head of an HTTP call as a HEAD frame.
pub fn put_http_head(out: &mut BytesMut, call: &CallInfo, parts: &http::request::Parts, has_body: bool) {
    let method = parts.method.as_str();
    let target = target_of(&parts.uri);
    let nested = bytes_length(method.len())
        + bytes_length(target.len())
        + headers_length(&parts.headers)
        + bool_length(!has_body);
    let mut head = call_fields(call, 8, nested);
    head.bytes(1, method.as_bytes());
    head.bytes(2, target.as_bytes());
    head.headers(3, &parts.headers);
    head.bool(4, !has_body);
    head.put(out, FrameType::Head);
}

/// Encodes the head of a pipe as a HEAD frame.
pub fn put_pipe_head(out: &mut BytesMut, call: &CallInfo) {
    call_fields(call, 9, 0).put(out, FrameType::Head);
}

/// The fields that come before `kind`, and the key of that one, whose message has `nested` bytes.
fn call_fields(call: &CallInfo, kind: u32, nested: usize) -> Writer {
    let names = call.plugin.len() + call.route.len() + call.service.as_str().len();
    // Six keys, numbers and lengths of ten bytes at the most, three lengths of names.
    let mut head = Writer(Vec::with_capacity(nested + names + 80));
    head.number(1, call.id);
    head.number(2, call.parent);
    head.bytes(3, call.plugin.as_bytes());
    head.bytes(4, call.route.as_bytes());
    head.bytes(5, call.service.as_str().as_bytes());
    if let Some(ms) = call.remaining_ms {
        head.key(6, VARINT);
        head.varint(ms);
    }
    head.number(7, call.priority.into());
    head.key(kind, LENGTH);
    head.varint(nested as u64);
    head
}

/// Encodes a reply's head as a HEAD frame.
pub fn put_reply_head(out: &mut BytesMut, status: http::StatusCode, headers: &HeaderMap, has_body: bool) {
    let mut head = Writer(Vec::with_capacity(headers_length(headers) + 8));
    head.number(1, status.as_u16().into());
    head.headers(2, headers);
    head.bool(3, !has_body);
    head.put(out, FrameType::Head);
}

/// Encodes the true end of a body as a TRAILERS frame.
pub fn put_trailers(out: &mut BytesMut, trailers: Option<&HeaderMap>) {
    let Some(trailers) = trailers else { return put_header(out, FrameType::Trailers, 0) };
    let mut message = Writer(Vec::with_capacity(headers_length(trailers)));
    message.headers(1, trailers);
    message.put(out, FrameType::Trailers);
}

/// Decodes the head of a call.
///
/// Unknown fields are skipped; of a field that comes twice the last one counts (protobuf would merge messages).
///
/// # Errors
/// A head that does not decode, is over a limit, or holds what HTTP does not allow.
pub fn decode_call(payload: Bytes, limits: &HeadLimits) -> Result<(CallInfo, CallKind), HeadError> {
    let mut fields = Fields::new(&payload, 0..payload.len());
    let (mut id, mut parent, mut remaining_ms, mut priority) = (0, 0, None, 0);
    let (mut plugin, mut route, mut service) = (0..0, 0..0, 0..0);
    let mut kind = None;
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => id = value.varint(number)?,
            2 => parent = value.varint(number)?,
            3 => plugin = value.bytes(number)?,
            4 => route = value.bytes(number)?,
            5 => service = value.bytes(number)?,
            6 => remaining_ms = Some(value.varint(number)?),
            // Of 32 bits: what is over is cut, as in every protobuf implementation.
            7 => priority = value.varint(number)? as u32,
            8 => kind = Some(decode_http(&payload, value.bytes(number)?, limits)?),
            9 => {
                let mut pipe = Fields::new(&payload, value.bytes(number)?);
                while pipe.next()?.is_some() {}
                kind = Some(CallKind::Pipe);
            }
            _ => {}
        }
    }
    let text = |range: Range<usize>| std::str::from_utf8(&payload[range]).map_err(|_| HeadError::NotText);
    let info = CallInfo {
        id,
        parent,
        plugin: text(plugin)?.into(),
        route: text(route)?.into(),
        service: ServiceName::new(text(service)?).map_err(|_| HeadError::BadService)?,
        remaining_ms,
        priority,
    };
    Ok((info, kind.ok_or(HeadError::UnknownKind)?))
}

fn decode_http(payload: &Bytes, range: Range<usize>, limits: &HeadLimits) -> Result<CallKind, HeadError> {
    let mut fields = Fields::new(payload, range.clone());
    let (mut method, mut target, mut no_body) = (0..0, 0..0, false);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => method = value.bytes(number)?,
            2 => target = value.bytes(number)?,
            4 => no_body = value.varint(number)? != 0,
            _ => {}
        }
    }
    if target.len() > limits.bytes {
        return Err(HeadError::TooManyBytes(target.len(), limits.bytes));
    }
    let mut parts = http::Request::new(()).into_parts().0;
    parts.method = http::Method::from_bytes(&payload[method]).map_err(|_| HeadError::BadMethod)?;
    let target = http::uri::PathAndQuery::from_maybe_shared(payload.slice(target))
        .map_err(|_| HeadError::BadTarget)?;
    parts.uri = target.into();
    parts.headers = decode_headers(payload, range, 3, limits)?;
    Ok(CallKind::Http { request: parts, has_body: !no_body })
}

/// Decodes the head of a reply: status, headers, and whether a body follows.
///
/// # Errors
/// As [`decode_call`].
pub fn decode_reply(
    payload: Bytes,
    limits: &HeadLimits,
) -> Result<(http::StatusCode, HeaderMap, bool), HeadError> {
    let mut fields = Fields::new(&payload, 0..payload.len());
    let (mut status, mut no_body) = (0u32, false);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => status = value.varint(number)? as u32,
            3 => no_body = value.varint(number)? != 0,
            _ => {}
        }
    }
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (100..=999).contains(status))
        .and_then(|status| http::StatusCode::from_u16(status).ok())
        .ok_or(HeadError::BadStatus(status))?;
    Ok((status, decode_headers(&payload, 0..payload.len(), 2, limits)?, !no_body))
}

/// Decodes the end of a body: its trailers, `None` if there are none.
///
/// # Errors
/// As [`decode_call`].
pub fn decode_trailers(payload: Bytes, limits: &HeadLimits) -> Result<Option<HeaderMap>, HeadError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let map = decode_headers(&payload, 0..payload.len(), 1, limits)?;
    Ok((!map.is_empty()).then_some(map))
}

/// The header fields of the message in `range`, which have the field number `tag`. Counts before it allocates; values
/// stay where they are in the payload.
fn decode_headers(
    payload: &Bytes,
    range: Range<usize>,
    tag: u32,
    limits: &HeadLimits,
) -> Result<HeaderMap, HeadError> {
    let (mut count, mut bytes) = (0, 0);
    let mut fields = Fields::new(payload, range.clone());
    while let Some((number, value)) = fields.next()? {
        if number == tag {
            count += 1;
            bytes += value.bytes(number)?.len();
        }
    }
    if count > limits.headers {
        return Err(HeadError::TooManyHeaders(count, limits.headers));
    }
    // Each has up to 8 bytes of keys and lengths, which do not count.
    if bytes > limits.bytes + 8 * count {
        return Err(HeadError::TooManyBytes(bytes, limits.bytes));
    }
    let mut map = HeaderMap::with_capacity(count);
    let mut fields = Fields::new(payload, range);
    let mut at = 0;
    let mut total = 0;
    while let Some((number, value)) = fields.next()? {
        if number != tag {
            continue;
        }
        let (mut name, mut text) = (0..0, 0..0);
        let mut header = Fields::new(payload, value.bytes(number)?);
        while let Some((number, value)) = header.next()? {
            match number {
                1 => name = value.bytes(number)?,
                2 => text = value.bytes(number)?,
                _ => {}
            }
        }
        total += name.len() + text.len();
        let name = HeaderName::from_bytes(&payload[name]).map_err(|_| HeadError::BadHeader(at))?;
        let value =
            HeaderValue::from_maybe_shared(payload.slice(text)).map_err(|_| HeadError::BadHeader(at))?;
        map.append(name, value);
        at += 1;
    }
    if total > limits.bytes {
        return Err(HeadError::TooManyBytes(total, limits.bytes));
    }
    Ok(map)
}

fn target_of(uri: &http::Uri) -> &str {
    uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

/// Wire types (Protocol Buffers encoding specification).
const VARINT: u32 = 0;
const LENGTH: u32 = 2;

/// Writes the fields of a message. A plain vector with room for all of it, as writing byte by byte is what it does.
struct Writer(Vec<u8>);

impl Writer {
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Numbers here are below 16: one byte of key.
    #[inline]
    fn key(&mut self, number: u32, wire_type: u32) {
        self.0.push((number << 3 | wire_type) as u8);
    }

    /// As all the following: a default value is left out, as proto3 has it.
    #[inline]
    fn bytes(&mut self, number: u32, value: &[u8]) {
        if !value.is_empty() {
            self.key(number, LENGTH);
            self.varint(value.len() as u64);
            self.0.extend_from_slice(value);
        }
    }

    fn number(&mut self, number: u32, value: u64) {
        if value != 0 {
            self.key(number, VARINT);
            self.varint(value);
        }
    }

    fn bool(&mut self, number: u32, value: bool) {
        self.number(number, value.into());
    }

    fn headers(&mut self, number: u32, headers: &HeaderMap) {
        for (name, value) in headers {
            self.key(number, LENGTH);
            self.varint(header_length(name, value) as u64);
            self.bytes(1, name.as_str().as_bytes());
            self.bytes(2, value.as_bytes());
        }
    }

    fn put(self, out: &mut BytesMut, kind: FrameType) {
        crate::frame::put_frame(out, kind, &self.0);
    }
}

/// Length of a field of bytes, 0 where proto3 leaves an empty one out.
const fn bytes_length(length: usize) -> usize {
    if length == 0 { 0 } else { 1 + varint_length(length) + length }
}

const fn bool_length(value: bool) -> usize {
    if value { 2 } else { 0 }
}

const fn varint_length(value: usize) -> usize {
    // Seven bits a byte, and one byte for zero.
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn header_length(name: &HeaderName, value: &HeaderValue) -> usize {
    bytes_length(name.as_str().len()) + bytes_length(value.len())
}

fn headers_length(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| {
            let length = header_length(name, value);
            1 + varint_length(length) + length
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::{
        frame::{FrameLimits, FrameReader},
        wire,
    };

    fn payload(bytes: BytesMut, kind: FrameType) -> Bytes {
        let mut reader = FrameReader::new(FrameLimits::default());
        reader.push(bytes.freeze());
        let frame = reader.next().expect("within the limits").expect("one frame");
        assert_eq!(frame.kind, kind);
        reader.finish().expect("nothing behind it");
        frame.payload
    }

    fn info() -> CallInfo {
        CallInfo {
            id: 1 << 40,
            parent: 0,
            plugin: "rest".into(),
            route: "orders".into(),
            service: ServiceName::new("orders").expect("a name"),
            remaining_ms: Some(0),
            priority: 3,
        }
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append("x-one", HeaderValue::from_static("1"));
        headers.append("x-empty", HeaderValue::from_static(""));
        headers.append("x-one", HeaderValue::from_bytes(b"\xff\xfe").expect("opaque bytes"));
        headers
    }

    fn wire_headers() -> Vec<wire::Header> {
        headers()
            .iter()
            .map(|(name, value)| wire::Header {
                name: Bytes::copy_from_slice(name.as_str().as_bytes()),
                value: Bytes::copy_from_slice(value.as_bytes()),
            })
            .collect()
    }

    fn request() -> http::request::Parts {
        let request = http::Request::post("/a%00b/../c?q=%ff&&").body(()).expect("a request");
        let (mut parts, ()) = request.into_parts();
        parts.headers = headers();
        parts
    }

    #[test]
    fn what_is_written_by_hand_is_what_the_generated_types_write() {
        for no_body in [false, true] {
            let mut out = BytesMut::new();
            put_http_head(&mut out, &info(), &request(), !no_body);
            let expected = wire::CallHead {
                id: 1 << 40,
                parent: 0,
                plugin: "rest".into(),
                route: "orders".into(),
                service: "orders".into(),
                remaining_ms: Some(0),
                priority: 3,
                kind: Some(wire::call_head::Kind::Http(wire::HttpHead {
                    method: "POST".into(),
                    target: Bytes::from_static(b"/a%00b/../c?q=%ff&&"),
                    headers: wire_headers(),
                    no_body,
                })),
            };
            assert_eq!(payload(out, FrameType::Head), expected.encode_to_vec());

            let mut out = BytesMut::new();
            put_reply_head(&mut out, http::StatusCode::CREATED, &headers(), !no_body);
            let expected = wire::ReplyHead { status: 201, headers: wire_headers(), no_body };
            assert_eq!(payload(out, FrameType::Head), expected.encode_to_vec());
        }
        let mut out = BytesMut::new();
        put_trailers(&mut out, Some(&headers()));
        let expected = wire::Trailers { headers: wire_headers() };
        assert_eq!(payload(out, FrameType::Trailers), expected.encode_to_vec());

        let mut out = BytesMut::new();
        put_pipe_head(&mut out, &info());
        let decoded = wire::CallHead::decode(payload(out, FrameType::Head)).expect("a head");
        assert_eq!(decoded.kind, Some(wire::call_head::Kind::Pipe(wire::PipeHead {})));
    }

    #[test]
    fn a_call_survives_the_wire() {
        let mut out = BytesMut::new();
        put_http_head(&mut out, &info(), &request(), true);
        let (call, kind) =
            decode_call(payload(out, FrameType::Head), &HeadLimits::default()).expect("a call");
        assert_eq!(call, info());
        let CallKind::Http { request: parts, has_body } = kind else { panic!("not HTTP") };
        assert!(has_body);
        assert_eq!(parts.method, http::Method::POST);
        assert_eq!(target_of(&parts.uri), "/a%00b/../c?q=%ff&&");
        assert_eq!(parts.headers, headers());
    }

    proptest! {
        #[test]
        fn what_the_generated_types_write_is_read(
            (id, priority, remaining_ms) in any::<(u64, u32, Option<u64>)>(),
            target in "/[ -~&&[^ #\"<>\\\\^`{|}?]]{0,40}",
            headers in prop::collection::vec(("[a-z][a-z0-9-]{0,20}", "[ -~]{0,40}"), 0..20),
            no_body in any::<bool>(),
            unknown in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let wire_headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| wire::Header { name: name.clone().into(), value: value.clone().into() })
                .collect();
            let head = wire::CallHead {
                id,
                parent: id / 2,
                plugin: "rest".into(),
                route: "a-route".into(),
                service: "orders".into(),
                remaining_ms,
                priority,
                kind: Some(wire::call_head::Kind::Http(wire::HttpHead {
                    method: "PATCH".into(),
                    target: target.clone().into(),
                    headers: wire_headers.clone(),
                    no_body,
                })),
            };
            // A field from the future, number 1000, of bytes.
            let mut bytes = head.encode_to_vec();
            prost::encoding::bytes::encode(1000, &unknown, &mut bytes);
            let (call, kind) = decode_call(bytes.into(), &HeadLimits::default()).expect("a valid head");
            prop_assert_eq!((call.id, call.parent, call.remaining_ms, call.priority), (id, id / 2, remaining_ms, priority));
            let CallKind::Http { request: parts, has_body } = kind else { panic!("not HTTP") };
            prop_assert_eq!(has_body, !no_body);
            prop_assert_eq!(target_of(&parts.uri), target);
            let mut expected = HeaderMap::new();
            for (name, value) in &headers {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                expected.append(name, HeaderValue::from_str(value).expect("a value"));
            }
            prop_assert_eq!(&parts.headers, &expected);
            let reply = wire::ReplyHead { status: 404, headers: wire_headers, no_body }.encode_to_vec();
            let (status, read, body) = decode_reply(reply.into(), &HeadLimits::default()).expect("a valid head");
            prop_assert_eq!((status.as_u16(), body), (404, !no_body));
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn whatever_the_bytes_decoding_ends_and_takes_nothing_that_protobuf_refuses(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let limits = HeadLimits::default();
            if decode_call(bytes.clone().into(), &limits).is_ok() {
                prop_assert!(wire::CallHead::decode(&bytes[..]).is_ok());
            }
            if decode_reply(bytes.clone().into(), &limits).is_ok() {
                prop_assert!(wire::ReplyHead::decode(&bytes[..]).is_ok());
            }
        }
    }

    #[test]
    fn heads_over_a_limit_or_out_of_http_are_refused() {
        let limits = HeadLimits { headers: 2, bytes: 64 };
        let header =
            |name: &'static [u8], value: Vec<u8>| wire::Header { name: name.into(), value: value.into() };
        let reply =
            |status, headers| wire::ReplyHead { status, headers, no_body: false }.encode_to_vec().into();
        let many = vec![header(b"a", vec![]); 3];
        assert!(matches!(decode_reply(reply(200, many), &limits), Err(HeadError::TooManyHeaders(3, 2))));
        let long = vec![header(b"a", vec![b'x'; 64])];
        assert!(matches!(decode_reply(reply(200, long), &limits), Err(HeadError::TooManyBytes(65, 64))));
        for bad in [header(b"a b", vec![]), header(b"", vec![]), header(b"a", b"x\r\ny: z".to_vec())] {
            assert!(matches!(decode_reply(reply(200, vec![bad]), &limits), Err(HeadError::BadHeader(0))));
        }
        for status in [0, 99, 1000, u32::MAX] {
            assert!(matches!(decode_reply(reply(status, vec![]), &limits), Err(HeadError::BadStatus(_))));
        }
        assert!(decode_call(Bytes::from_static(b"\xff\xff"), &limits).is_err());
        assert!(matches!(decode_call(Bytes::new(), &limits), Err(HeadError::BadService)));
    }
}
