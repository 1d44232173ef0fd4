//! The bytes that `files` sends: any number of them, always the same, made as they are pulled.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

/// Bytes of one block. Large enough that making blocks costs little beside sending them, small enough that a thousand
/// slow readers hold 64 MiB.
const BLOCK: usize = 64 * 1024;

/// What every block looks like behind its number: bytes without a pattern that compression or a lucky offset could hide.
static NOISE: LazyLock<[u8; BLOCK]> = LazyLock::new(|| {
    let mut state = 0x1234_5678_9abc_def1_u64;
    std::array::from_fn(|_| {
        // xorshift64 (Marsaglia 2003); its top byte.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    })
});

/// The block at this place of the stream. It begins with its number, so that a lost, doubled or moved block changes the
/// checksum.
fn block(number: u64, length: usize) -> Bytes {
    let mut block = BytesMut::with_capacity(length);
    block.extend_from_slice(&NOISE[..length]);
    let place = length.min(8);
    block[..place].copy_from_slice(&number.to_be_bytes()[8 - place..]);
    block.freeze()
}

/// All blocks of a stream of `bytes` bytes, lazily. The first `bytes` bytes of a longer stream are the same, except where
/// the last block of the shorter one has fewer than eight.
pub fn pattern(bytes: u64) -> impl Iterator<Item = Bytes> {
    let size = BLOCK as u64;
    (0..bytes.div_ceil(size)).map(move |number| {
        let length = (bytes - number * size).min(size);
        block(number, usize::try_from(length).expect("a block is small"))
    })
}

/// SHA-256 of the whole stream, in hexadecimal. Takes about a second for each GiB.
pub fn checksum(bytes: u64) -> String {
    let mut hash = Sha256::new();
    for block in pattern(bytes) {
        hash.update(&block);
    }
    hexadecimal(&hash.finalize())
}

/// Lower-case hexadecimal digits, as `sha256sum` prints them.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The stream as a body: of known length, or with the checksum in a trailer, which in HTTP/1.1 excludes a known length.
pub(super) struct Download<I> {
    blocks: I,
    left: u64,
    trailer: Option<(HeaderName, Sha256)>,
}

/// The stream as a body, with its checksum as the trailer `trailer` where one is given.
pub(super) fn download(
    bytes: u64,
    trailer: Option<HeaderName>,
) -> Download<impl Iterator<Item = Bytes> + Unpin> {
    Download { blocks: pattern(bytes), left: bytes, trailer: trailer.map(|name| (name, Sha256::new())) }
}

impl<I: Iterator<Item = Bytes> + Unpin> Body for Download<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(block) = this.blocks.next() {
            this.left -= block.len() as u64;
            if let Some((_, hash)) = &mut this.trailer {
                hash.update(&block);
            }
            return Poll::Ready(Some(Ok(Frame::data(block))));
        }
        Poll::Ready(this.trailer.take().map(|(name, hash)| {
            let sum =
                HeaderValue::from_str(&hexadecimal(&hash.finalize())).expect("digits are a header value");
            Ok(Frame::trailers(HeaderMap::from_iter([(name, sum)])))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.trailer.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.trailer {
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_has_the_length_that_was_asked_for() {
        for bytes in [0, 1, 7, 8, 9, BLOCK as u64 - 1, BLOCK as u64, BLOCK as u64 + 1, 3 * BLOCK as u64 + 5] {
            assert_eq!(pattern(bytes).map(|block| block.len() as u64).sum::<u64>(), bytes);
        }
    }

    #[test]
    fn blocks_that_change_places_change_the_checksum() {
        let blocks: Vec<_> = pattern(2 * BLOCK as u64).collect();
        let mut hash = Sha256::new();
        for block in blocks.iter().rev() {
            hash.update(block);
        }
        assert_ne!(hexadecimal(&hash.finalize()), checksum(2 * BLOCK as u64));
    }

    #[test]
    fn the_checksum_of_nothing_is_that_of_the_standard() {
        assert_eq!(checksum(0), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
