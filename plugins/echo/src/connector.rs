//! The connector: a service that is not there, only its echo.

use edgeway_plugin::{
    Body, BoxPipe, CallContext, ConfigError, Connector, ConnectorFactory, Fault, Request, Response,
};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Deserialize;
use tokio::io::SimplexStream;

/// Bytes that a pipe holds between writing and reading. Whoever writes more than is read waits; a larger buffer would let
/// writers run further ahead, at the cost of memory for each pipe.
const PIPE_BUFFER: usize = 16 * 1024;

/// The section `echo: {}` of a service in the agent's config. There is nothing to say.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EchoConnectorConfig {}

/// Makes an [`EchoConnector`].
#[derive(Debug)]
pub struct EchoConnectorFactory;

impl ConnectorFactory for EchoConnectorFactory {
    const NAME: &'static str = "echo";
    type Config = EchoConnectorConfig;
    type Connector = EchoConnector;

    fn build(EchoConnectorConfig {}: EchoConnectorConfig) -> Result<EchoConnector, ConfigError> {
        Ok(EchoConnector { _private: () })
    }
}

/// Answers every call with the call's own body, and gives back what is written into a pipe.
#[derive(Debug)]
pub struct EchoConnector {
    _private: (),
}

impl Connector for EchoConnector {
    /// Answers `200` at once; the request's body, with its trailers, becomes the answer's as it comes. Nothing is
    /// collected: each poll of the answer polls the request, so flow control reaches from one end to the other. A
    /// request that was cut is a fault in the body, and passes on as one.
    async fn call(&self, request: Request<Body>, _cx: CallContext) -> Result<Response<Body>, Fault> {
        let (head, body) = request.into_parts();
        let mut answer = Response::new(body);
        // The length is part of what is echoed: known, zero and unknown stay apart.
        for name in [CONTENT_LENGTH, CONTENT_TYPE] {
            if let Some(value) = head.headers.get(&name) {
                answer.headers_mut().insert(name, value.clone());
            }
        }
        Ok(answer)
    }

    /// A pipe that reads what is written to it. Its end is read, too, once the writing half is shut down.
    async fn open(&self, _cx: CallContext) -> Result<BoxPipe, Fault> {
        Ok(Box::new(SimplexStream::new_unsplit(PIPE_BUFFER)))
    }

    // No `probe`: the default says Ready, and there is nothing that could be anything else.
}
