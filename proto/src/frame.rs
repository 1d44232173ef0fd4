//! Frames: type (1 byte), length (a varint of RFC 9000, section 16), payload.
//!
//! [`FrameReader`] is fed with whatever the transport delivers and yields frames. Payloads of DATA are handed on in the
//! pieces in which they came, so a body is never collected; every other payload is collected under
//! [`FrameLimits::payload`], which is checked before anything is kept. Frames of an unknown type are skipped.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The type byte of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// Head of a call or of its answer; protobuf.
    Head = 0x01,
    /// Bytes of a body.
    Data = 0x02,
    /// True end of a body; protobuf.
    Trailers = 0x03,
    /// Why there is no (complete) answer; protobuf.
    Fault = 0x04,
    /// First frame of the control stream, agent to hub; protobuf.
    Hello = 0x10,
    /// Answer to Hello; protobuf.
    Welcome = 0x11,
    /// Nothing new any more, either way; protobuf.
    Drain = 0x12,
}

impl FrameType {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Head,
            0x02 => Self::Data,
            0x03 => Self::Trailers,
            0x04 => Self::Fault,
            0x10 => Self::Hello,
            0x11 => Self::Welcome,
            0x12 => Self::Drain,
            _ => return None,
        })
    }
}

/// A frame, or for DATA a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is; never an unknown type.
    pub kind: FrameType,
    /// The whole payload, or for DATA a piece that is not empty.
    pub payload: Bytes,
}

/// What a peer may ask of a reader.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// Longest payload of a frame other than DATA, and of an unknown one, in bytes.
    pub payload: u64,
    /// Longest DATA frame, in bytes. It costs no memory here; it bounds how far a wrong length can lead astray.
    pub data: u64,
}

impl Default for FrameLimits {
    fn default() -> Self {
        // 256 KiB holds every head that the default header limits (64 KiB) let through, and leaves room to raise them.
        // 16 MiB is far over what any sender of ours puts into one frame.
        Self { payload: 256 * 1024, data: 16 * 1024 * 1024 }
    }
}

/// Why bytes are no frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A declared length over the limit. Nothing was allocated for it.
    #[error("frame of type {kind:#04x} declares {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// The type byte.
        kind: u8,
        /// What it declared.
        length: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The stream ended within a frame.
    #[error("stream ended within a frame")]
    Truncated,
}

/// Longest header: type and an 8-byte varint.
pub const MAX_HEADER: usize = 9;

/// Appends a frame's header.
///
/// # Panics
/// If `length` is 2^62 or more, which no buffer in memory is.
pub fn put_header(out: &mut BytesMut, kind: FrameType, length: usize) {
    out.put_u8(kind as u8);
    put_varint(out, length as u64);
}

/// Appends a whole frame.
pub fn put_frame(out: &mut BytesMut, kind: FrameType, payload: &[u8]) {
    out.reserve(MAX_HEADER + payload.len());
    put_header(out, kind, payload.len());
    out.put_slice(payload);
}

/// Appends a protobuf message as a frame.
pub fn put_message(out: &mut BytesMut, kind: FrameType, message: &impl prost::Message) {
    let length = message.encoded_len();
    out.reserve(MAX_HEADER + length);
    put_header(out, kind, length);
    message.encode(out).expect("room was reserved");
}

fn put_varint(out: &mut BytesMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(0x4000 | value as u16),
        0x4000..=0x3fff_ffff => out.put_u32(0x8000_0000 | value as u32),
        _ => {
            assert!(value < 1 << 62, "a varint has 62 bits");
            out.put_u64(0xc000_0000_0000_0000 | value);
        }
    }
}

/// Type, payload length and header length, if the header is whole.
fn header(bytes: &[u8]) -> Option<(u8, u64, usize)> {
    let (&kind, rest) = bytes.split_first()?;
    let &first = rest.first()?;
    let size = 1usize << (first >> 6);
    let varint = rest.get(..size)?;
    let mut value = u64::from(first & 0x3f);
    for &byte in &varint[1..] {
        value = value << 8 | u64::from(byte);
    }
    Some((kind, value, 1 + size))
}

/// Turns the bytes of one stream direction into frames.
#[derive(Debug)]
pub struct FrameReader {
    limits: FrameLimits,
    /// Bytes not yet looked at; frames are cut from it without copying.
    chunk: Bytes,
    /// The start of a frame that is not whole yet. While this is not empty, `chunk` is.
    partial: BytesMut,
    /// What is left of a DATA frame (`true`) or of an unknown one (`false`).
    open: Option<(u64, bool)>,
}

impl FrameReader {
    /// A reader at the start of a stream.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits, chunk: Bytes::new(), partial: BytesMut::new(), open: None }
    }

    /// Takes what came. Call [`next`](Self::next) until it has nothing before pushing again: then at most one frame that
    /// is not whole is kept.
    pub fn push(&mut self, bytes: Bytes) {
        if self.chunk.is_empty() && self.partial.is_empty() {
            self.chunk = bytes;
        } else {
            if !self.chunk.is_empty() {
                self.partial.extend_from_slice(&self.chunk);
                self.chunk = Bytes::new();
            }
            self.partial.extend_from_slice(&bytes);
        }
    }

    /// The next frame, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError::TooLong`], after which the reader must not be used on.
    #[allow(clippy::should_implement_trait)] // it can fail and be fed again, so it is no iterator
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some((left, wanted)) = self.open {
                let piece = self.take(left);
                if piece.is_empty() {
                    return Ok(None);
                }
                let left = left - piece.len() as u64;
                self.open = (left > 0).then_some((left, wanted));
                if wanted {
                    return Ok(Some(Frame { kind: FrameType::Data, payload: piece }));
                }
                continue;
            }
            let buffered: &[u8] = if self.partial.is_empty() { &self.chunk } else { &self.partial };
            let Some((byte, length, header)) = header(buffered) else {
                self.keep();
                return Ok(None);
            };
            let kind = FrameType::from_byte(byte);
            let limit = if kind == Some(FrameType::Data) { self.limits.data } else { self.limits.payload };
            if length > limit {
                return Err(FrameError::TooLong { kind: byte, length, limit });
            }
            match kind {
                None | Some(FrameType::Data) => {
                    self.take(header as u64);
                    if length > 0 {
                        self.open = Some((length, kind.is_some()));
                    }
                }
                Some(kind) => {
                    let whole = header + length as usize;
                    if buffered.len() < whole {
                        self.keep();
                        return Ok(None);
                    }
                    let mut payload = self.take(whole as u64);
                    payload.advance(header);
                    return Ok(Some(Frame { kind, payload }));
                }
            }
        }
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] if it ended within a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        let clean = self.open.is_none() && self.chunk.is_empty() && self.partial.is_empty();
        if clean { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// Up to `most` bytes of what is buffered, without copying.
    fn take(&mut self, most: u64) -> Bytes {
        if !self.partial.is_empty() {
            self.chunk = self.partial.split().freeze();
            // Give the buffer up: an idle stream keeps no memory.
            self.partial = BytesMut::new();
        }
        let size = most.min(self.chunk.len() as u64) as usize;
        if size == self.chunk.len() { std::mem::take(&mut self.chunk) } else { self.chunk.split_to(size) }
    }

    /// Moves an incomplete frame to where the next bytes can be appended; later pushes append without copying it again.
    fn keep(&mut self) {
        if self.partial.is_empty() && !self.chunk.is_empty() {
            self.partial.extend_from_slice(&self.chunk);
            self.chunk = Bytes::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(reader: &mut FrameReader, out: &mut Vec<(FrameType, Vec<u8>)>) -> Result<(), FrameError> {
        while let Some(frame) = reader.next()? {
            match out.last_mut() {
                Some((FrameType::Data, body)) if frame.kind == FrameType::Data => {
                    body.extend_from_slice(&frame.payload)
                }
                _ => out.push((frame.kind, frame.payload.to_vec())),
            }
        }
        Ok(())
    }

    #[test]
    fn unknown_frames_are_skipped() {
        let mut bytes = BytesMut::new();
        bytes.put_slice(&[0x3f, 0x03, 1, 2, 3, 0xfe, 0x00]);
        put_frame(&mut bytes, FrameType::Head, b"head");
        let mut reader = FrameReader::new(FrameLimits::default());
        let mut frames = Vec::new();
        reader.push(bytes.freeze());
        read_all(&mut reader, &mut frames).expect("frames");
        assert_eq!(frames, [(FrameType::Head, b"head".to_vec())]);
        reader.finish().expect("a clean end");
    }

    #[test]
    fn a_declared_length_of_2_to_the_62_is_refused_before_it_is_allocated() {
        for kind in [0x01u8, 0x02, 0x03, 0x04, 0x10, 0x77] {
            let mut reader = FrameReader::new(FrameLimits::default());
            let mut bytes = vec![kind];
            bytes.extend_from_slice(&u64::MAX.to_be_bytes());
            reader.push(bytes.into());
            let error = reader.next().expect_err("a length over every limit");
            assert!(
                matches!(error, FrameError::TooLong { length, .. } if length == (1 << 62) - 1),
                "{error}"
            );
        }
    }

    #[test]
    fn an_end_within_a_frame_is_truncated() {
        let mut bytes = BytesMut::new();
        put_frame(&mut bytes, FrameType::Data, b"0123456789");
        for cut in 1..bytes.len() {
            let mut reader = FrameReader::new(FrameLimits::default());
            reader.push(bytes.clone().freeze().slice(..cut));
            while reader.next().expect("no limit is passed").is_some() {}
            assert_eq!(reader.finish(), Err(FrameError::Truncated), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_frames_are_the_same(
            frames in prop::collection::vec((0usize..4, prop::collection::vec(any::<u8>(), 0..300)), 0..12),
            cuts in prop::collection::vec(1usize..40, 1..60),
        ) {
            let kinds = [FrameType::Head, FrameType::Data, FrameType::Trailers, FrameType::Fault];
            let mut bytes = BytesMut::new();
            let mut expected: Vec<(FrameType, Vec<u8>)> = Vec::new();
            for (kind, payload) in frames {
                put_frame(&mut bytes, kinds[kind], &payload);
                match expected.last_mut() {
                    Some((FrameType::Data, body)) if kind == 1 => body.extend_from_slice(&payload),
                    _ if kind == 1 && payload.is_empty() => {}
                    _ => expected.push((kinds[kind], payload)),
                }
            }
            let mut bytes = bytes.freeze();
            let mut reader = FrameReader::new(FrameLimits::default());
            let mut seen = Vec::new();
            let mut cuts = cuts.into_iter().cycle();
            while !bytes.is_empty() {
                let size = cuts.next().expect("a cycle").min(bytes.len());
                reader.push(bytes.split_to(size));
                read_all(&mut reader, &mut seen).expect("frames within the limits");
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }
}
