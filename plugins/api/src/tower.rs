//! Between these traits and `tower::Service` (feature `tower`).
//!
//! [`EdgeService`] is the edge as a service, so that a plugin can put tower's layers (timeout, retry, rate limit, ...)
//! around its calls. [`ServiceConnector`] is a connector made of any service of HTTP requests, so that an application
//! can live inside an agent of its own instead of behind a socket.
//!
//! Limits of the host need no layer: it counts calls where it routes them, and a permit of its own rides in the body of an
//! answer, which the permit of a layer, given back with the answer's head, can't.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use edgeway_proto::{Fault, FaultCode};
use http::{Request, Response};
use tower::{Service, ServiceExt};

use crate::{Body, BoxFuture, CallContext, Connector, Edge};

/// The edge as a `tower::Service`. Always ready: at a limit the answer is a fault, at once.
#[derive(Clone)]
pub struct EdgeService {
    edge: Arc<dyn Edge>,
    cx: CallContext,
}

impl EdgeService {
    /// Calls through this service are made with `cx`.
    pub fn new(edge: Arc<dyn Edge>, cx: CallContext) -> Self {
        Self { edge, cx }
    }
}

impl Service<Request<Body>> for EdgeService {
    type Response = Response<Body>;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Response<Body>, Fault>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { edge, cx } = self.clone();
        Box::pin(async move { edge.call(request, cx).await })
    }
}

/// A connector made of a service. Each call gets a clone of the service, which is then driven to readiness.
///
/// An error of the service is [`ServiceReset`](FaultCode::ServiceReset) with the error's text: an answer that a caller
/// should see belongs into a response.
#[derive(Debug, Clone)]
pub struct ServiceConnector<S>(S);

impl<S> ServiceConnector<S> {
    /// A connector of this service.
    pub fn new(service: S) -> Self {
        Self(service)
    }
}

impl<S, B> Connector for ServiceConnector<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Send,
    S::Error: std::fmt::Display + Send,
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Fault>,
{
    async fn call(&self, mut request: Request<Body>, cx: CallContext) -> Result<Response<Body>, Fault> {
        // Who called and until when, for those who want to know.
        request.extensions_mut().insert(cx);
        let answered = self.0.clone().oneshot(request).await;
        let response =
            answered.map_err(|error| Fault::with_detail(FaultCode::ServiceReset, error.to_string()))?;
        Ok(response.map(Body::new))
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use tower::{ServiceBuilder, service_fn};

    use super::*;
    use crate::{BoxPipe, Destination, NodeView};

    struct Through<C>(C);

    impl<C: Connector> Edge for Through<C> {
        fn call(
            &self,
            request: Request<Body>,
            cx: CallContext,
        ) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
            Box::pin(self.0.call(request, cx))
        }

        fn open(&self, _: Destination, _: CallContext) -> BoxFuture<'_, Result<BoxPipe, Fault>> {
            Box::pin(async { Err(Fault::unsupported()) })
        }

        fn nodes(&self, _: &Destination) -> Vec<NodeView> {
            Vec::new()
        }
    }

    #[tokio::test]
    async fn a_service_behind_a_service_answers_with_its_context() {
        let service = service_fn(|request: Request<Body>| async move {
            let priority = request.extensions().get::<CallContext>().expect("a context").priority;
            let body = request.into_body().collect(100).await.expect("a body");
            Ok::<_, Infallible>(Response::new(Body::full(format!("{priority} {}", body.len()))))
        });
        let mut cx = CallContext::new();
        cx.priority = 7;
        let edge = EdgeService::new(Arc::new(Through(ServiceConnector::new(service))), cx);
        let answer = edge.oneshot(Request::new(Body::full("four"))).await.expect("an answer");
        assert_eq!(answer.into_body().collect(100).await.expect("a body"), "7 4");
    }

    #[tokio::test]
    async fn layers_of_tower_wrap_the_edge() {
        let never =
            service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
        let edge = EdgeService::new(Arc::new(Through(ServiceConnector::new(never))), CallContext::new());
        let mut edge = ServiceBuilder::new().timeout(Duration::from_millis(10)).service(edge);
        let answer = edge.ready().await.expect("always ready").call(Request::new(Body::empty())).await;
        assert!(answer.expect_err("nobody answers").is::<tower::timeout::error::Elapsed>());
    }

    #[tokio::test]
    async fn an_error_of_the_service_is_a_reset() {
        let broken = service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>("out of paper") });
        let answer =
            ServiceConnector::new(broken).call(Request::new(Body::empty()), CallContext::new()).await;
        let fault = answer.expect_err("it is broken");
        assert_eq!((fault.code(), fault.detail()), (FaultCode::ServiceReset, "out of paper"));
    }
}
