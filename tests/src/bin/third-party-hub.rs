//! A hub of a third party: the built-in plugins and one of its own, put together in ten lines.

use std::{net::SocketAddr, process::ExitCode};

use edgeway_plugin::{
    Body, CallContext, ConfigError, Plugin, PluginContext, PluginError, PluginFactory, Request,
};
use serde::Deserialize;
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

fn main() -> ExitCode {
    cloud_hub::Hub::builder().with_builtin_plugins().plugin::<FingerFactory>().run()
}

/// The finger protocol (RFC 1288): one line in, which becomes the path of a call; the answer's body out.
struct Finger {
    listen: SocketAddr,
}

struct FingerFactory;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FingerConfig {
    listen: SocketAddr,
}

impl PluginFactory for FingerFactory {
    const NAME: &'static str = "finger";
    type Config = FingerConfig;
    type Plugin = Finger;

    fn build(config: FingerConfig) -> Result<Finger, ConfigError> {
        Ok(Finger { listen: config.listen })
    }
}

impl Plugin for Finger {
    async fn run(&self, cx: PluginContext) -> Result<(), PluginError> {
        let bind = |source| PluginError::Bind { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).await.map_err(bind)?;
        cx.bound(listener.local_addr().map_err(bind)?);
        let mut calls = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                biased; // after a stop nobody new is taken
                () = cx.stop.cancelled() => break,
                Some(_) = calls.join_next() => {}
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        calls.spawn(answer(stream, cx.clone()));
                    }
                }
            }
        }
        while calls.join_next().await.is_some() {}
        Ok(())
    }
}

async fn answer(stream: TcpStream, cx: PluginContext) {
    let mut stream = BufReader::new(stream);
    let Some(line) = line(&mut stream).await else { return };
    let request = Request::get(format!("/{line}")).header("host", "finger").body(Body::empty());
    let text = match request {
        Err(_) => "not a name\r\n".into(),
        Ok(request) => match cx.edge.call(request, CallContext::new()).await {
            Err(fault) => format!("{fault}\r\n").into(),
            // Cut in the middle, it ends without the line that says that it is whole.
            Ok(answer) => match answer.into_body().collect(64 * 1024).await {
                Ok(body) => body,
                Err(_) => return,
            },
        },
    };
    let _ = stream.write_all(&text).await;
    let _ = stream.shutdown().await;
}

/// A line of 512 bytes at most; `None` for a caller that sends something else.
async fn line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt};
    let mut line = String::new();
    stream.take(512).read_line(&mut line).await.ok()?;
    line.ends_with('\n').then(|| line.trim().to_owned())
}
