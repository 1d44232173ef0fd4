//! One call: a caller's request becomes a call on the edge, and its answer or fault an answer to the caller.

use std::{convert::Infallible, sync::Arc, time::Duration};

use edgeway_plugin::{Body, CallContext, Fault, FaultCode};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, UPGRADE},
    request,
};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use crate::{
    body::{self, Answer, Declared, Undeclared, broken},
    connection::Caller,
    fault::{EDGEWAY_FAULT, fault_response},
    headers,
    upgrade::Asked,
};

/// When a caller may come back to whom no connection was left. Connections end all the time; a second is long.
const COME_BACK_AFTER: Duration = Duration::from_secs(1);

/// Answers one request. Every fault is an answer, too.
///
/// # Cancel safety
/// hyper drops the future, or the answer's body, when the caller leaves; the call is cancelled with it.
pub(crate) async fn serve(
    caller: Arc<Caller>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let running = caller.activity.begin();
    let version = request.version();
    let result = if caller.refused {
        Err(Fault::overloaded("the limit of connections is reached", COME_BACK_AFTER))
    } else {
        call(&caller, request).await
    };
    let (response, length) = result.unwrap_or_else(|fault| {
        tracing::debug!(code = %fault.code(), detail = fault.detail(), "call answered with a fault");
        let mut response = fault_response(&fault);
        // What follows a request that could not be understood, or was not read to its end, can't be trusted to be one.
        let suspect = matches!(
            fault.code(),
            FaultCode::BadRequest | FaultCode::RequestTooLarge | FaultCode::Unsupported
        );
        if version <= Version::HTTP_11 && (suspect || caller.refused) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            caller.activity.unread();
        }
        // A body of our own needs no check, and hyper drops it where there may be none.
        (response, None)
    });
    let ends_with_connection =
        version <= Version::HTTP_10 && !response.headers().contains_key(CONTENT_LENGTH);
    Ok(response.map(|body| Answer::new(body, running, length, ends_with_connection)))
}

/// An answer and the length that its body must have, where its head declares one.
type Measured = (Response<Body>, Option<u64>);

async fn call(caller: &Caller, request: Request<Incoming>) -> Result<Measured, Fault> {
    let (mut head, incoming) = request.into_parts();
    check(&mut head, caller)?;
    if head.uri.path() == "*" {
        return about_ourselves(&head.method);
    }
    let mut asked = Asked::of(&mut head, !incoming.is_end_stream());
    border(&mut head, asked.as_ref().map(|(asked, _)| asked), caller);
    let method = head.method.clone();
    let (body, told) = match &mut asked {
        Some((_, body)) => (std::mem::take(body), None),
        None => body_of(incoming, caller)?,
    };
    let mut calling = caller.shared.edge.call(Request::from_parts(head, body), CallContext::new());
    let response = match told {
        None => calling.await?,
        Some(mut told) => tokio::select! {
            biased; // an answer that is there is the answer, whatever became of the request since
            // But where a broken request has made the call fail, that is what the caller can do something about.
            result = &mut calling => result.map_err(|fault| told.try_recv().unwrap_or(fault))?,
            Ok(fault) = &mut told => return Err(fault),
        },
    };
    answer(response, &method, asked.map(|(asked, _)| asked), caller)
}

/// Refuses what is no request for a service.
fn check(head: &mut request::Parts, caller: &Caller) -> Result<(), Fault> {
    headers::check_framing(&head.headers, head.version)?;
    if head.method == Method::CONNECT {
        return Err(Fault::with_detail(
            FaultCode::Unsupported,
            "no method CONNECT here, this is no forward proxy",
        ));
    }
    let most = caller.shared.settings.header_count;
    if head.headers.len() > most {
        // HTTP/1 heads are counted as they are parsed; HTTP/2's parser bounds their bytes alone.
        return Err(Fault::with_detail(
            FaultCode::BadRequest,
            format!("the request has more than {most} headers"),
        ));
    }
    headers::settle_target(&mut head.uri, &mut head.headers, head.version, &caller.local)
}

/// `OPTIONS *` (RFC 9110, section 9.3.7) asks whether anybody is here at all; no route could match it.
fn about_ourselves(method: &Method) -> Result<Measured, Fault> {
    if method != Method::OPTIONS {
        return Err(headers::bad_request("the request's target is '*', which only OPTIONS can have"));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok((response, None))
}

/// Makes a caller's head one for the edge.
fn border(head: &mut request::Parts, asked: Option<&Asked>, caller: &Caller) {
    let headers = &mut head.headers;
    headers::remove_hop_by_hop(headers);
    if let Some(asked) = asked {
        asked.say(headers, None);
    }
    if head.version == Version::HTTP_2 {
        headers::join_cookies(headers);
    }
    caller.origin.tell(headers, caller.shared.settings.trust_forwarded);
    headers::add_via(headers, caller.shared.via_of(head.version));
    headers::begin_trace(headers);
}

/// The request's body for the edge, and where a fault of it is told. Nothing is read from the caller before the edge
/// polls it, which is also what sends `100 Continue`.
fn body_of(incoming: Incoming, caller: &Caller) -> Result<(Body, Option<oneshot::Receiver<Fault>>), Fault> {
    if incoming.is_end_stream() {
        return Ok((Body::empty(), None));
    }
    let (limit, activity) = (caller.shared.settings.request_body, caller.activity.clone());
    match incoming.size_hint().exact() {
        Some(length) if length > limit => Err(body::too_large(limit)),
        Some(_) => Ok((Body::new(Declared::new(incoming, activity)), None)),
        None => {
            let (body, told) = Undeclared::new(incoming, activity, limit);
            Ok((Body::new(body), Some(told)))
        }
    }
}

/// Makes the edge's answer one for the caller. A service's status is passed on whatever it is; what is no complete
/// answer is a fault.
fn answer(
    response: Response<Body>,
    method: &Method,
    asked: Option<Asked>,
    caller: &Caller,
) -> Result<Measured, Fault> {
    let (mut head, body) = response.into_parts();
    let protocol = asked.as_ref().and_then(|_| head.headers.get(UPGRADE).cloned());
    headers::remove_hop_by_hop(&mut head.headers);
    head.headers.remove(EDGEWAY_FAULT);
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(asked) = asked else {
            return Err(broken("the service switched protocols without being asked"));
        };
        asked.say(&mut head.headers, protocol);
        caller.switch(asked.answered(body));
        return Ok((Response::from_parts(head, Body::empty()), None));
    }
    if head.status.is_informational() {
        return Err(broken("the service's last answer has an interim status"));
    }
    let length = declared(&head.headers)?;
    // These have a length and no body, and mean it.
    let bodiless =
        method == Method::HEAD || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless {
        return Ok((Response::from_parts(head, body), None));
    }
    if length.is_some_and(|length| length > 0) && body.is_end_stream() {
        // There is still time to say so.
        return Err(broken("the service's answer has a length and no body"));
    }
    Ok((Response::from_parts(head, body), length))
}

/// The one length that an answer's head declares.
fn declared(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(None) };
    let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (digits.and_then(|digits| digits.parse().ok()), lengths.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(broken("the service's answer has no valid length")),
    }
}
