//! A protocol small enough to misuse in every way: pieces with their length before them, then a mark of the end.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    /// The true end.
    End,
    /// A refusal.
    Refused,
    /// The connection closed instead.
    Closed,
}

const END: u32 = u32::MAX;
const REFUSED: u32 = u32::MAX - 1;

pub(super) async fn read_piece(from: &mut (impl AsyncRead + Unpin)) -> Piece {
    match from.read_u32().await {
        Err(_) => Piece::Closed,
        Ok(END) => Piece::End,
        Ok(REFUSED) => Piece::Refused,
        Ok(length) => {
            let mut data = vec![0; usize::try_from(length).expect("32 bits fit")];
            match from.read_exact(&mut data).await {
                Ok(_) => Piece::Data(data.into()),
                Err(_) => Piece::Closed,
            }
        }
    }
}

pub(super) async fn write_piece(to: &mut (impl AsyncWrite + Unpin), piece: &Piece) -> io::Result<()> {
    match piece {
        Piece::Data(data) => {
            to.write_u32(u32::try_from(data.len()).expect("a test's piece is small")).await?;
            to.write_all(data).await
        }
        Piece::End => to.write_u32(END).await,
        Piece::Refused => to.write_u32(REFUSED).await,
        Piece::Closed => Err(io::ErrorKind::ConnectionReset.into()),
    }
}
