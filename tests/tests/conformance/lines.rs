use std::net::SocketAddr;

use bytes::Bytes;
use edgeway_plugin::conformance::{Driver, Outcome};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A caller of the plugin.
pub(crate) struct Lines;

impl Driver for Lines {
    async fn exchange(&self, address: SocketAddr, request: Bytes) -> Outcome {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let (mut reader, mut writer) = stream.into_split();
        let send = async {
            // The plugin may close before it has read all; what it said is read below.
            let _ = writer.write_all(&request).await;
            let _ = writer.write_all(b"\n").await;
        };
        let receive = async {
            let mut answer = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            while !answer.ends_with(b"\n") {
                match reader.read(&mut buffer).await {
                    Ok(read) if read > 0 => answer.extend_from_slice(&buffer[..read]),
                    _ => return Outcome::Truncated,
                }
            }
            answer.pop();
            match answer.strip_prefix(b"fault: ") {
                Some(code) => Outcome::Refused(String::from_utf8_lossy(code).into_owned()),
                None => Outcome::Complete(answer.into()),
            }
        };
        tokio::join!(send, receive).1
    }

    async fn leave_midway(&self, address: SocketAddr, request: Bytes) -> bool {
        let mut stream = TcpStream::connect(address).await.expect("the plugin listens");
        stream.write_all(&request).await.expect("the plugin reads");
        true // the line has no end
    }
}
