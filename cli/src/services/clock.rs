//! `clock`: Server-Sent Events (WHATWG HTML, section 9.2), the first at once, then one a second.
//!
//! `?ticks=3` ends the stream after three; without it the clock goes on until the caller leaves or the service stops. A
//! caller that reads slowly gets fewer ticks, never a backlog of old ones.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use edgeway_proto::NodeName;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Answer, listen::Place, parameter, text};

/// Time between two ticks.
const PERIOD: Duration = Duration::from_secs(1);

pub(super) fn answer<B>(request: &Request<B>, place: &Place) -> Response<Answer> {
    let left = match parameter(request.uri().query(), "ticks").map(str::parse::<u64>) {
        None => None,
        Some(Ok(ticks)) => Some(ticks),
        Some(Err(_)) => return text(StatusCode::BAD_REQUEST, "ticks must be a number, as in ?ticks=3\n"),
    };
    let mut interval = tokio::time::interval(PERIOD);
    interval.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let ticks = Ticks {
        node: place.node.clone(),
        interval,
        sent: 0,
        left,
        stop: Box::pin(place.stop.clone().cancelled_owned()),
    };
    let mut response = Response::new(ticks.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct Ticks {
    node: NodeName,
    interval: Interval,
    sent: u64,
    /// `None` for a clock that goes on.
    left: Option<u64>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left == Some(0) || this.stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        ready!(this.interval.poll_tick(cx));
        this.sent += 1;
        this.left = this.left.map(|left| left - 1);
        let event = format!(
            "event: tick\nid: {}\ndata: {{\"node\":\"{}\",\"tick\":{},\"utc\":\"{}\"}}\n\n",
            this.sent,
            this.node,
            this.sent,
            time_of_day(SystemTime::now())
        );
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }
}

/// Hours, minutes, seconds and milliseconds of the day, UTC.
fn time_of_day(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, since.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_day_is_that_of_utc() {
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_042);
        assert_eq!(time_of_day(at), "22:13:20.042");
    }
}
