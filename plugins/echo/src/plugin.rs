//! The plugin: lines over TCP, each of them one call.
//!
//! The protocol, for people with `nc`:
//!
//! - A line is the body of a call `POST /` for the host `echo`; its line feed (and a carriage return before it) is not
//!   part of it. Lines of one caller are called one after the other.
//! - The answer comes back as one line. A fault comes back as the line `fault: <code>`.
//! - An answer that was cut, or one that has a line feed in it and so is no line, has no line feed at its end: the
//!   connection closes instead.
//! - A caller that closes its connection, or only its sending half, has left, and its call is cancelled.

use std::{io, net::SocketAddr, time::Duration};

use edgeway_plugin::{
    Body, CallContext, ConfigError, FaultCode, Plugin, PluginContext, PluginError, PluginFactory, Request,
};
use http::header::{CONTENT_LENGTH, HOST};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tracing::{debug, warn};

/// Callers that are served at once; more of them wait to be accepted. Each may hold a line in memory, so this times the
/// longest line is what callers can make the plugin use.
const MAX_CALLERS: usize = 1024;

/// Rest after a failed accept, which is most often for want of file descriptors: without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The section `echo` of the hub's plugins.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EchoPluginConfig {
    /// Where to listen for callers, such as `127.0.0.1:7000`. Port 0 takes any free one.
    pub listen: SocketAddr,
    /// The longest line that is taken, with a unit: `512B`, `64KiB`, `1MiB`. Where absent: `64KiB`.
    pub max_line: Option<String>,
}

/// Makes an [`EchoPlugin`].
#[derive(Debug)]
pub struct EchoPluginFactory;

impl PluginFactory for EchoPluginFactory {
    const NAME: &'static str = "echo";
    type Config = EchoPluginConfig;
    type Plugin = EchoPlugin;

    fn build(config: EchoPluginConfig) -> Result<EchoPlugin, ConfigError> {
        let mut problems = ConfigError::new();
        let max_line = config.max_line.as_deref().unwrap_or("64KiB");
        let max_line = parse_size(max_line).unwrap_or_else(|| {
            problems.push("maxLine", "must be a size from 1B to 16MiB, such as 512B, 64KiB or 1MiB");
            0
        });
        problems.or(EchoPlugin { listen: config.listen, max_line })
    }
}

fn parse_size(text: &str) -> Option<usize> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let unit = match &text[digits..] {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    let size = text[..digits].parse::<usize>().ok()?.checked_mul(unit)?;
    (1..=16 << 20).contains(&size).then_some(size)
}

/// Turns every line of a TCP connection into a call.
#[derive(Debug)]
pub struct EchoPlugin {
    listen: SocketAddr,
    max_line: usize,
}

impl Plugin for EchoPlugin {
    async fn run(&self, cx: PluginContext) -> Result<(), PluginError> {
        let failed = |source| PluginError::Bind { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).await.map_err(failed)?;
        cx.bound(listener.local_addr().map_err(failed)?);
        // The set owns every task: the host drops this future at its deadline, and they end with it.
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                biased; // stop comes first; then callers who ended, so that the set holds only those who are there
                () = cx.stop.cancelled() => break,
                Some(ended) = callers.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "a caller's task panicked");
                    }
                }
                accepted = listener.accept(), if callers.len() < MAX_CALLERS => match accepted {
                    Ok((stream, _)) => {
                        callers.spawn(serve(stream, cx.clone(), self.max_line));
                    }
                    Err(error) => {
                        warn!(%error, "can't accept a caller");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener); // new callers are refused from here on; those who wait for an answer get it
        while callers.join_next().await.is_some() {}
        Ok(())
    }
}

/// Serves one caller, line by line, until it leaves or `stop` fires between two lines.
async fn serve(stream: TcpStream, cx: PluginContext, max_line: usize) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let line = tokio::select! {
            biased; // nothing new is taken after stop
            () = cx.stop.cancelled() => return,
            line = read_line(&mut reader, max_line) => line,
        };
        let served = match line {
            Ok(Line::Whole(line)) => tokio::select! {
                biased; // an answer that is complete is not cancelled
                served = exchange(&cx, line, &mut writer) => served,
                () = left(&mut reader) => return, // drops the call, which cancels it at the service
            },
            Ok(Line::TooLong) => say(&mut writer, FaultCode::RequestTooLarge).await,
            Ok(Line::Left) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            debug!(%error, "a caller's connection ends early");
            return;
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    /// The caller left. What it sent of a line is not a line.
    Left,
}

/// Reads one line and holds no more of it than `max` bytes and its end; what is longer is read past and forgotten.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), max: usize) -> io::Result<Line> {
    let room = max as u64 + 2; // for a carriage return and a line feed
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        if reader.take(room).read_until(b'\n', &mut line).await? == 0 {
            return Ok(Line::Left);
        }
        if line.pop_if(|last| *last == b'\n').is_some() {
            break;
        }
        // The room is used up; or the caller is gone, which the next read will say.
        too_long = true;
        line.clear();
    }
    line.pop_if(|last| *last == b'\r');
    Ok(if too_long || line.len() > max { Line::TooLong } else { Line::Whole(line) })
}

/// Resolves when the caller has closed its connection. Lines that it has sent ahead hide that until they are read.
async fn left(reader: &mut (impl AsyncBufRead + Unpin)) {
    if reader.fill_buf().await.is_ok_and(|ahead| !ahead.is_empty()) {
        std::future::pending().await
    }
}

/// Makes the call and passes its answer on. On an error the connection closes, and the caller sees a line without an end.
async fn exchange(
    cx: &PluginContext,
    line: Vec<u8>,
    writer: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let request = Request::post("/")
        .header(HOST, "echo")
        .header(CONTENT_LENGTH, line.len())
        .body(Body::full(line))
        .expect("a request of constants is valid");
    let mut answer = match cx.edge.call(request, CallContext::new()).await {
        Ok(answer) => answer.into_body(),
        Err(fault) => return say(writer, fault.code()).await,
    };
    while let Some(frame) = answer.frame().await {
        let frame = frame.map_err(io::Error::other)?; // it was cut: never end the line after this
        let Ok(data) = frame.into_data() else { continue }; // a line has no place for trailers
        if data.contains(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is more than one line"));
        }
        writer.write_all(&data).await?;
    }
    writer.write_all(b"\n").await
}

/// Tells the caller of a fault.
async fn say(writer: &mut (impl AsyncWrite + Unpin), code: FaultCode) -> io::Result<()> {
    writer.write_all(format!("fault: {code}\n").as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(max_line: Option<&str>) -> Result<EchoPlugin, ConfigError> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        EchoPluginFactory::build(EchoPluginConfig { listen, max_line: max_line.map(Into::into) })
    }

    #[test]
    fn the_longest_line_has_a_unit_and_a_default() {
        for (text, bytes) in
            [(None, 65_536), (Some("512B"), 512), (Some("1KiB"), 1024), (Some("16MiB"), 16 << 20)]
        {
            assert_eq!(build(text).expect("a size").max_line, bytes);
        }
        for bad in ["", "0B", "64", "64kb", "17MiB", "-1B", "99999999999999999999B", "KiB"] {
            let error = build(Some(bad)).expect_err(bad);
            assert_eq!(error.problems()[0].0, "maxLine");
        }
    }

    #[tokio::test]
    async fn a_line_is_bounded_and_whole_or_it_is_none() {
        async fn read(mut sent: &[u8]) -> Line {
            read_line(&mut sent, 3).await.expect("a slice can be read")
        }
        for (sent, line) in
            [("abc\n", "abc"), ("abc\r\n", "abc"), ("\n", ""), ("\r\r\n", "\r"), ("a\nb\n", "a")]
        {
            assert!(
                matches!(read(sent.as_bytes()).await, Line::Whole(found) if found == line.as_bytes()),
                "{sent:?}"
            );
        }
        for sent in ["abcd\n", "abcde\n", "abcdef\n", "abcdefghijklmn\n", "abcd\r\n"] {
            assert!(matches!(read(sent.as_bytes()).await, Line::TooLong), "{sent:?}");
        }
        for sent in ["", "a", "abc", "ab\r", "abcde", "abcdefgh"] {
            assert!(matches!(read(sent.as_bytes()).await, Line::Left), "{sent:?}");
        }
    }
}
