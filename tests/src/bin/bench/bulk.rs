//! Large bodies: one at a time, over a plain socket, so that the caller costs as little as it can.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::Outcome;

/// Which way the body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Direction {
    /// From the service to the caller.
    Down,
    /// From the caller to the service.
    Up,
}

const PIECE: usize = 256 * 1024;

/// Longest silence before a transfer counts as stuck.
const STUCK: Duration = Duration::from_secs(30);

/// Moves `size` bytes through `target` and returns how long that took, the connection's set-up included.
pub(crate) fn http(target: SocketAddr, direction: Direction, size: u64) -> Outcome<Duration> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(target)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STUCK))?;
    stream.set_write_timeout(Some(STUCK))?;
    let mut buffer = vec![0; PIECE];
    match direction {
        Direction::Down => {
            write!(stream, "GET /bytes/{size} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
            let (head, mut read) = head(&mut stream, &mut buffer)?;
            expect(&head, "content-length", size)?;
            loop {
                match stream.read(&mut buffer)? {
                    0 => break,
                    count => read += count as u64,
                }
            }
            if read != size {
                return Err(format!("{read} of {size} bytes came").into());
            }
        }
        Direction::Up => {
            write!(
                stream,
                "POST /sink HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
            )?;
            let mut left = size;
            while left > 0 {
                let piece = left.min(PIECE as u64) as usize;
                stream.write_all(&buffer[..piece])?;
                left -= piece as u64;
            }
            let (head, _) = head(&mut stream, &mut buffer)?;
            expect(&head, "x-bytes", size)?;
        }
    }
    Ok(began.elapsed())
}

/// The head of the answer, in lower case, and how many bytes of the body came with it.
fn head(stream: &mut TcpStream, buffer: &mut [u8]) -> Outcome<(String, u64)> {
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..])?;
        if count == 0 {
            return Err("the connection ended before the answer's head".into());
        }
        filled += count;
        if let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(format!("answered with {}", head.lines().next().unwrap_or_default()).into());
            }
            return Ok((head, (filled - end - 4) as u64));
        }
    }
}

fn expect(head: &str, name: &str, value: u64) -> Outcome<()> {
    let line = format!("{name}: {value}");
    if head.lines().any(|found| found == line) {
        Ok(())
    } else {
        Err(format!("no '{line}' in\n{head}").into())
    }
}
