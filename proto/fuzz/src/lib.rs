//! What must hold for any bytes a peer may send, one function for each decoder of `edgeway-proto`.
//!
//! A decoder refuses or takes; it never panics. What it takes is within its limits, and written out and read again it is
//! the same. The binaries in `fuzz_targets/` only hand bytes to the function of their name.

#![forbid(unsafe_code)]

use std::{fmt::Debug, time::Duration};

use bytes::{Bytes, BytesMut};
use edgeway_proto::{
    Close, Fault,
    fault::MAX_DETAIL,
    frame::{FrameError, FrameLimits, FrameReader, FrameType, put_frame},
    head::{
        CallKind, HeadLimits, decode_call, decode_reply, decode_trailers, put_http_head, put_pipe_head,
        put_reply_head, put_trailers,
    },
    wire,
};
use http::HeaderMap;
use prost::Message;

/// Small, so that inputs of a few bytes reach them.
const FRAMES: FrameLimits = FrameLimits { payload: 64, data: 256 };
const HEADS: HeadLimits = HeadLimits { headers: 8, bytes: 256 };

/// However the bytes are cut, the frames and the error are the same; none is over its limit; written again they read the
/// same. The first byte of the input says how it is cut.
pub fn frames(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let (whole, whole_end) = read(stream, stream.len().max(1));
    let (pieces, pieces_end) = read(stream, usize::from(cut).max(1));
    assert_eq!(whole, pieces, "frames depend on how the stream was cut");
    assert_eq!(whole_end, pieces_end, "the end depends on how the stream was cut");

    let mut again = BytesMut::new();
    for (kind, payload) in &whole {
        if *kind == FrameType::Data {
            // Pieces of DATA were joined here, perhaps over the limit of a single frame.
            payload.chunks(FRAMES.data as usize).for_each(|piece| put_frame(&mut again, *kind, piece));
        } else {
            assert!(payload.len() as u64 <= FRAMES.payload, "a payload is over the limit");
            put_frame(&mut again, *kind, payload);
        }
    }
    let (read_again, end) = read(&again, again.len().max(1));
    assert_eq!((read_again, end), (whole, Ok(())), "frames changed when written and read again");
}

/// The head of a call, of HTTP or of a pipe.
pub fn call_head(data: &[u8]) {
    let payload = Bytes::copy_from_slice(data);
    let Ok((call, kind)) = decode_call(payload.clone(), &HEADS) else { return };
    let mut out = BytesMut::new();
    match &kind {
        CallKind::Pipe => put_pipe_head(&mut out, &call),
        CallKind::Http { request, has_body } => {
            within_limits(&request.headers);
            let target = target_of(request);
            assert!(target.len() <= HEADS.bytes, "the target is over the limit");
            raw_target(&payload, target);
            put_http_head(&mut out, &call, request, *has_body);
        }
    }
    let (call_again, kind_again) =
        decode_call(only_frame(out, FrameType::Head), &HEADS).expect("what was written reads");
    assert_eq!(call, call_again);
    match (kind, kind_again) {
        (CallKind::Pipe, CallKind::Pipe) => {}
        (CallKind::Http { request: a, has_body: b }, CallKind::Http { request: c, has_body: d }) => {
            assert_eq!((&a.method, target_of(&a), &a.headers, b), (&c.method, target_of(&c), &c.headers, d));
        }
        _ => panic!("the kind of the call changed"),
    }
}

/// The head of an answer.
pub fn reply_head(data: &[u8]) {
    let Ok(reply) = decode_reply(Bytes::copy_from_slice(data), &HEADS) else { return };
    within_limits(&reply.1);
    let mut out = BytesMut::new();
    put_reply_head(&mut out, reply.0, &reply.1, reply.2);
    assert_eq!(
        decode_reply(only_frame(out, FrameType::Head), &HEADS).expect("what was written reads"),
        reply
    );
}

/// The end of a body.
pub fn trailers(data: &[u8]) {
    let Ok(trailers) = decode_trailers(Bytes::copy_from_slice(data), &HEADS) else { return };
    if let Some(trailers) = &trailers {
        assert!(!trailers.is_empty(), "no trailers are `None`");
        within_limits(trailers);
    }
    let mut out = BytesMut::new();
    put_trailers(&mut out, trailers.as_ref());
    let again =
        decode_trailers(only_frame(out, FrameType::Trailers), &HEADS).expect("what was written reads");
    assert_eq!(again, trailers);
}

/// A fault, from the message to the type and back.
pub fn fault(data: &[u8]) {
    let Ok(message) = wire::Fault::decode(data) else { return };
    let fault = Fault::from_wire(message);
    assert!(fault.detail().len() <= MAX_DETAIL, "the detail is over the limit");
    assert!(fault.retry_after().is_none_or(|after| after <= Duration::from_secs(86_400)), "parked for ever");
    assert!(!fault.to_string().is_empty() && fault.code().http_status().as_u16() >= 400);
    assert_eq!(Fault::from_wire(fault.to_wire()), fault);
}

/// Hello, which names services and labels.
pub fn hello(data: &[u8]) {
    message::<wire::Hello>(data);
}

/// Welcome.
pub fn welcome(data: &[u8]) {
    message::<wire::Welcome>(data);
}

/// Drain.
pub fn drain(data: &[u8]) {
    message::<wire::Drain>(data);
}

/// The reason of a closed session. The first two bytes are the code.
pub fn close_reason(data: &[u8]) {
    let Some((code, reason)) = data.split_first_chunk() else { return };
    let Some(close) = Close::from_peer(u16::from_be_bytes(*code).into(), reason) else { return };
    assert!(close.message.chars().count() <= 256, "the message is over the limit");
    assert!(close.retry_after.is_none_or(|after| after <= Duration::from_secs(3_600)), "parked for ever");
    assert_eq!(Close::from_peer(close.code.number().into(), &close.reason()), Some(close));
}

/// A message without limits of its own: the frame's bound it.
fn message<M: Message + Default + Debug + PartialEq>(data: &[u8]) {
    let Ok(message) = M::decode(data) else { return };
    let encoded = message.encode_to_vec();
    assert_eq!(M::decode(encoded.as_slice()).expect("what was written reads"), message);
}

/// All frames of a stream that comes in pieces of `size` bytes, neighbouring pieces of DATA joined, and how it ended.
fn read(stream: &[u8], size: usize) -> (Vec<(FrameType, Vec<u8>)>, Result<(), FrameError>) {
    let mut reader = FrameReader::new(FRAMES);
    let mut frames: Vec<(FrameType, Vec<u8>)> = Vec::new();
    for piece in stream.chunks(size) {
        reader.push(Bytes::copy_from_slice(piece));
        loop {
            match reader.next() {
                Ok(Some(frame)) => match frames.last_mut() {
                    Some((FrameType::Data, body)) if frame.kind == FrameType::Data => {
                        body.extend_from_slice(&frame.payload);
                    }
                    _ => frames.push((frame.kind, frame.payload.into())),
                },
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, reader.finish())
}

/// The payload of the one frame that was written.
fn only_frame(bytes: BytesMut, kind: FrameType) -> Bytes {
    let mut reader = FrameReader::new(FrameLimits::default());
    reader.push(bytes.freeze());
    let frame = reader.next().expect("within the limits").expect("a whole frame");
    assert_eq!(frame.kind, kind);
    reader.finish().expect("one frame");
    frame.payload
}

fn within_limits(headers: &HeaderMap) {
    assert!(headers.len() <= HEADS.headers, "too many fields were taken");
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    assert!(bytes <= HEADS.bytes, "too many bytes were taken");
}

/// As it goes out: nothing at all and the root are the same.
fn target_of(request: &http::request::Parts) -> &str {
    request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

/// A target is passed on as it came; only a fragment, which has no place there (RFC 9112, section 3.2), is cut off.
fn raw_target(payload: &[u8], target: &str) {
    let in_one_piece = payload.windows(target.len()).any(|window| window == target.as_bytes());
    assert!(target == "/" || in_one_piece, "the target is not what was sent");
    // Of fields that come twice the generated types keep other parts, so only what they would write themselves compares.
    let Ok(head) = wire::CallHead::decode(payload) else { return };
    if head.encode_to_vec() == payload
        && let Some(wire::call_head::Kind::Http(http)) = head.kind
    {
        let sent = http.target.split(|&byte| byte == b'#').next().unwrap_or_default();
        assert_eq!(if sent.is_empty() { b"/" } else { sent }, target.as_bytes(), "the target was changed");
    }
}
