//! One exchange: request out, answer in.

use std::sync::Arc;

use edgeway_plugin::{Body, Fault};
use http::{Request, Response, StatusCode, Version};
use hyper::{body::Incoming, client::conn::TrySendError};

use crate::{
    answer::{self, Source},
    config::Settings,
    fault::{no_answer, nonsense},
    head::{self, Outline},
    http1::{Http1, MAX_INTERIM},
    http2::Stream,
    pool::{Connection, Pool},
    switch,
    upload::{Exchange, Upload},
};

/// What the attempts of one call have in common.
struct Call<'a> {
    pool: &'a Arc<Pool>,
    settings: &'a Settings,
    outline: Outline,
    exchange: Option<Arc<Exchange>>,
}

/// Why an attempt failed.
enum Failure {
    Fault(Fault),
    /// Nothing of the request was written, as the connection was closed while it was idle.
    Unsent(Box<Request<Upload>>),
}

/// Sends a request and returns the answer as its head arrives.
///
/// # Errors
/// See [`Connector::call`](edgeway_plugin::Connector::call).
///
/// # Cancel safety
/// Dropping the future closes the connection, or resets the stream.
pub(crate) async fn call(
    pool: &Arc<Pool>,
    settings: &Settings,
    request: Request<Body>,
) -> Result<Response<Body>, Fault> {
    let (mut parts, body) = request.into_parts();
    let outline = head::outline(&mut parts, &body)?;
    let (upload, mut switched) =
        if outline.upgrade { (Upload::none(), Some(body)) } else { (Upload::new(body, &outline), None) };
    let call = Call { pool, settings, outline, exchange: upload.exchange() };
    let mut request = Request::from_parts(parts, upload);
    let mut fresh = false;
    loop {
        let sent = match pool.acquire(outline.upgrade, fresh).await? {
            Connection::Http1(connection) => call.http1(connection, request, &mut switched, fresh).await,
            Connection::Http2(stream) => call.http2(stream, request, fresh).await,
        };
        match sent {
            Ok(response) => return Ok(response),
            Err(Failure::Fault(fault)) => return Err(fault),
            // Once, and only because no byte of it was written: a call never runs twice.
            Err(Failure::Unsent(unsent)) => {
                request = *unsent;
                fresh = true;
            }
        }
    }
}

impl Call<'_> {
    async fn http1(
        &self,
        mut connection: Http1,
        mut request: Request<Upload>,
        switched: &mut Option<Body>,
        fresh: bool,
    ) -> Result<Response<Body>, Failure> {
        head::for_http1(&mut request, &self.outline, self.settings);
        connection.attach(&mut request);
        let mut response = match connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(_) if connection.endless_interim() => {
                return Err(Failure::Fault(nonsense(format!(
                    "the service sent more than {MAX_INTERIM} interim answers and no final one"
                ))));
            }
            Err(error) => return Err(self.failure(error, connection.reused && !fresh)),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(upload) = switched.take() else {
                return Err(Failure::Fault(nonsense("the service switched protocols without being asked")));
            };
            let body =
                switch::body(&mut response, upload, connection, self.pool).await.map_err(Failure::Fault)?;
            response.extensions_mut().clear();
            return Ok(response.map(|_| body));
        }
        // An HTTP/1.0 service understands no chunks, and hyper would drop the next request's body for it.
        connection.reusable = response.version() == Version::HTTP_11;
        let source = Source::Http1 { connection, pool: Arc::clone(self.pool) };
        Ok(self.answer(response, source))
    }

    async fn http2(
        &self,
        stream: Stream,
        mut request: Request<Upload>,
        fresh: bool,
    ) -> Result<Response<Body>, Failure> {
        head::for_http2(&mut request, self.settings).map_err(Failure::Fault)?;
        request.extensions_mut().clear();
        let stream = Arc::new(stream);
        request.body_mut().hold(&stream);
        let response =
            stream.sender().try_send_request(request).await.map_err(|error| self.failure(error, !fresh))?;
        let most = self.pool.settings().header_count;
        if response.headers().len() > most {
            self.leave();
            return Err(Failure::Fault(nonsense(format!(
                "the head of the service's answer has over {most} fields"
            ))));
        }
        Ok(self.answer(response, Source::Http2 { _stream: stream }))
    }

    fn answer(&self, mut response: Response<Incoming>, source: Source) -> Response<Body> {
        head::clean_answer(&mut response);
        response.map(|incoming| answer::body(incoming, source, self.exchange.clone()))
    }

    fn failure(&self, mut error: TrySendError<Request<Upload>>, may_resend: bool) -> Failure {
        if may_resend && let Some(unsent) = error.take_message() {
            return Failure::Unsent(Box::new(unsent));
        }
        if let Some(cut) = self.exchange.as_ref().and_then(|exchange| exchange.cut()) {
            return Failure::Fault(cut);
        }
        Failure::Fault(no_answer(error.error(), self.pool.settings()))
    }

    fn leave(&self) {
        if let Some(exchange) = &self.exchange {
            exchange.leave();
        }
    }
}
