//! Role `slow-readers`: callers that ask for a large body and read one kilobyte of it a second.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};

use crate::{Outcome, process};

/// A small buffer, so that the kernel does not read on the callers' behalf; Linux rounds it up.
const RECEIVE_BUFFER: u32 = 4096;

/// Opens the callers, says so once each has the head of its answer, and reads on until killed.
pub(crate) async fn run(target: SocketAddr, count: u32) -> Outcome<()> {
    let (ready, mut readies) = mpsc::channel::<()>(count as usize);
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..count {
        let stream = open(target).await?;
        readers.spawn(read(stream, ready.clone()));
    }
    drop(ready);
    for _ in 0..count {
        tokio::select! {
            biased; // a reader that ended is what keeps the others from being all
            Some(ended) = readers.join_next() => ended??,
            ready = readies.recv() => ready.ok_or("a slow reader got no answer")?,
        }
    }
    process::say_ready(target);
    match readers.join_next().await {
        Some(Ok(Err(error))) => Err(error),
        _ => Err("a slow reader came to its end".into()),
    }
}

async fn open(target: SocketAddr) -> Outcome<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let mut stream = socket.connect(target).await?;
    stream.write_all(b"GET /bytes/1000000000 HTTP/1.1\r\nHost: bench\r\n\r\n").await?;
    Ok(stream)
}

async fn read(mut stream: TcpStream, ready: mpsc::Sender<()>) -> Outcome<()> {
    let mut buffer = [0; 1024];
    let count = stream.read(&mut buffer).await?;
    if !buffer[..count].starts_with(b"HTTP/1.1 200") {
        return Err(format!("a slow reader got {}", String::from_utf8_lossy(&buffer[..count])).into());
    }
    ready.send(()).await?;
    drop(ready);
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if stream.read(&mut buffer).await? == 0 {
            return Err("the answer to a slow reader was cut".into());
        }
    }
}
