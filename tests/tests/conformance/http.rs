//! HTTP/1.1 by hand: a caller of the plugin `rest` and services for the connector `http`, so that neither side of the suite
//! leans on the library that the subjects are made of.

use std::{io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use edgeway_plugin::conformance::{
    Driver, LocalService, Outcome, ServiceBehaviour, StartedService, Tally, TallyEntry, json,
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

/// A head: its first line, and what its headers say of the body.
struct Head {
    first: String,
    fault: Option<String>,
    length: Option<usize>,
    chunked: bool,
}

async fn read_head(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Head> {
    let mut head = Head { first: String::new(), fault: None, length: None, chunked: false };
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(head);
        }
        match line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value)) {
            None => head.first = line.to_owned(),
            Some((name, value)) => match name.as_str() {
                "edgeway-fault" => head.fault = Some(value.to_owned()),
                "content-length" => head.length = value.parse().ok(),
                "transfer-encoding" => head.chunked = value == "chunked",
                _ => {}
            },
        }
    }
}

enum Part {
    Data(Bytes),
    End,
}

/// The next part of a body, as it comes. `left` counts down the declared length or the chunk.
async fn read_part(
    reader: &mut (impl AsyncBufRead + Unpin),
    head: &Head,
    left: &mut usize,
) -> io::Result<Part> {
    if *left == 0 {
        if !head.chunked {
            return Ok(Part::End);
        }
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        *left = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
        if *left == 0 {
            loop {
                let mut trailer = String::new();
                if reader.read_line(&mut trailer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if trailer.trim_end().is_empty() {
                    return Ok(Part::End);
                }
            }
        }
    }
    let some = reader.fill_buf().await?;
    if some.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let data = Bytes::copy_from_slice(&some[..some.len().min(*left)]);
    reader.consume(data.len());
    *left -= data.len();
    if *left == 0 && head.chunked {
        reader.read_exact(&mut [0; 2]).await?;
    }
    Ok(Part::Data(data))
}

pub(crate) struct Caller;

impl Driver for Caller {
    async fn exchange(&self, address: SocketAddr, request: Bytes) -> Outcome {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let send = async {
            let head =
                format!("POST /x HTTP/1.1\r\nhost: conformance\r\ncontent-length: {}\r\n\r\n", request.len());
            let _ = writer.write_all(head.as_bytes()).await;
            let _ = writer.write_all(&request).await;
        };
        let receive = async {
            let head = match read_head(&mut reader).await {
                Ok(head) => head,
                Err(_) => return Outcome::Truncated,
            };
            if let Some(fault) = head.fault {
                return Outcome::Refused(fault);
            }
            if !head.first.starts_with("HTTP/1.1 200") {
                return Outcome::Refused(head.first);
            }
            if !head.chunked && head.length.is_none() {
                return Outcome::Truncated; // an answer that ends with its connection is never known to be whole
            }
            let mut answer = BytesMut::new();
            let mut left = head.length.unwrap_or(0);
            loop {
                match read_part(&mut reader, &head, &mut left).await {
                    Ok(Part::Data(data)) => answer.extend_from_slice(&data),
                    Ok(Part::End) => return Outcome::Complete(answer.freeze()),
                    Err(_) => return Outcome::Truncated,
                }
            }
        };
        tokio::join!(send, receive).1
    }

    async fn leave_midway(&self, address: SocketAddr, request: Bytes) -> bool {
        let mut stream = TcpStream::connect(address).await.expect("the plugin listens");
        let head =
            format!("POST /x HTTP/1.1\r\nhost: conformance\r\ncontent-length: {}\r\n\r\n", request.len() + 1);
        stream.write_all(head.as_bytes()).await.expect("the plugin reads");
        stream.write_all(&request).await.expect("the plugin reads");
        true
    }
}

/// Services of HTTP/1.1.
pub(crate) struct HttpServices;

impl LocalService for HttpServices {
    async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let address = listener.local_addr().expect("a bound listener");
        let section = json!({"url": format!("http://{address}")});
        if behaviour == ServiceBehaviour::Refuse {
            return Some(StartedService::new(section, ()));
        }
        let tally = Tally::default();
        let counted = tally.clone();
        let running = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, behaviour, counted.clone()));
            }
        });
        Some(StartedService::new(section, AbortOnDropHandle::new(running)).with_tally(tally))
    }
}

async fn serve(stream: TcpStream, behaviour: ServiceBehaviour, tally: Tally) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    while let Ok(head) = read_head(&mut reader).await {
        let entry = tally.begin();
        match answer(&head, &mut reader, &mut writer, behaviour, &entry).await {
            Ok(true) => entry.answered(),
            Ok(false) => match behaviour {
                ServiceBehaviour::CutAfter(_) => {
                    writer.as_ref().set_zero_linger().expect("open");
                    return entry.answered();
                }
                _ => {
                    while reader.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                    return;
                }
            },
            Err(_) => return,
        }
    }
}

/// Whether it answered in full.
async fn answer(
    head: &Head,
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut OwnedWriteHalf,
    behaviour: ServiceBehaviour,
    entry: &TallyEntry,
) -> io::Result<bool> {
    let mut limit = match behaviour {
        ServiceBehaviour::StallAfter(limit) | ServiceBehaviour::CutAfter(limit) => limit,
        ServiceBehaviour::Echo | ServiceBehaviour::Refuse => usize::MAX,
    };
    if limit == 0 {
        return Ok(false);
    }
    writer.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
    let mut left = head.length.unwrap_or(0);
    loop {
        if limit == 0 {
            return Ok(false);
        }
        match read_part(reader, head, &mut left).await? {
            Part::Data(data) => {
                let data = data.slice(..data.len().min(limit));
                limit -= data.len();
                write_chunk(writer, &data).await?;
            }
            Part::End => {
                entry.request_completed();
                writer.write_all(b"0\r\n\r\n").await?;
                return Ok(true);
            }
        }
    }
}

async fn write_chunk(writer: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> io::Result<()> {
    writer.write_all(format!("{:x}\r\n", data.len()).as_bytes()).await?;
    writer.write_all(data).await?;
    writer.write_all(b"\r\n").await
}

/// Services that speak no protocol at all.
pub(crate) struct TcpServices;

impl LocalService for TcpServices {
    const CALLS: bool = false;
    const PIPES: bool = true;

    async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let section = json!({"address": listener.local_addr().expect("a bound listener").to_string()});
        if behaviour == ServiceBehaviour::Refuse {
            return Some(StartedService::new(section, ()));
        }
        let tally = Tally::default();
        let counted = tally.clone();
        let running = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(echo(stream, behaviour, counted.begin()));
            }
        });
        Some(StartedService::new(section, AbortOnDropHandle::new(running)).with_tally(tally))
    }
}

async fn echo(mut stream: TcpStream, behaviour: ServiceBehaviour, entry: TallyEntry) {
    let mut limit = match behaviour {
        ServiceBehaviour::StallAfter(limit) | ServiceBehaviour::CutAfter(limit) => limit,
        ServiceBehaviour::Echo | ServiceBehaviour::Refuse => usize::MAX,
    };
    let mut buffer = vec![0; 16 * 1024];
    while limit > 0 {
        match stream.read(&mut buffer).await {
            Ok(0) => {
                entry.request_completed();
                if stream.shutdown().await.is_ok() {
                    entry.answered();
                }
                return;
            }
            Ok(read) => {
                let echoed = read.min(limit);
                limit -= echoed;
                if stream.write_all(&buffer[..echoed]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
    if let ServiceBehaviour::CutAfter(_) = behaviour {
        stream.set_zero_linger().expect("the stream is open");
        return entry.answered();
    }
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}
