//! Faults as callers see them: `application/problem+json` (RFC 9457) and the header `edgeway-fault`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeway_plugin::{Body, Fault};
use http::{
    HeaderName, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use serde::Serialize;

/// Names the fault's code. A service can't set it: what carries it is ours.
pub(crate) const EDGEWAY_FAULT: HeaderName = HeaderName::from_static("edgeway-fault");

/// What `type` begins with; the code follows.
const TYPE: &str = "https://edgeway.dev/faults/";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leg: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

/// The answer that tells a caller of a fault. The only place where faults become HTTP.
pub(crate) fn fault_response(fault: &Fault) -> Response<Body> {
    let code = fault.code();
    let retry_after = fault.retry_after().map(whole_seconds);
    let problem = Problem {
        r#type: format!("{TYPE}{}", code.name()),
        title: code.title(),
        status: code.http_status().as_u16(),
        detail: fault.detail(),
        code: code.name(),
        since: fault.since().and_then(timestamp),
        leg: fault.leg().map(edgeway_plugin::Leg::name),
        retry_after,
    };
    let text = serde_json::to_vec(&problem).expect("a flat record of texts and numbers");
    let mut response = Response::new(());
    *response.status_mut() = code.http_status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CONTENT_LENGTH, text.len().into());
    headers.insert(EDGEWAY_FAULT, HeaderValue::from_static(code.name()));
    // Caches may keep a 404 or 501 on their own account, and a route may come any time.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    response.map(|()| Body::full(text))
}

/// Rounded up, and at least one: a caller that comes back too early is refused again.
fn whole_seconds(after: Duration) -> u64 {
    after.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(u64::MAX)
}

/// UTC to the second (RFC 3339), `None` before 1970.
fn timestamp(time: SystemTime) -> Option<String> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    // Counted in years that begin in March, so that the leap day is a year's last; 400 of them have 146,097 days.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

#[cfg(test)]
mod tests {
    use edgeway_plugin::{FaultCode, Leg};

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds)).expect("after 1970");
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(951_868_800), "2000-03-01T00:00:00Z");
        assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[tokio::test]
    async fn every_fault_is_a_problem_with_its_code() {
        assert!(!FaultCode::ALL.is_empty());
        for &code in FaultCode::ALL {
            let response = fault_response(&Fault::with_detail(code, "the \"reason\""));
            assert_eq!(response.status(), code.http_status());
            assert_eq!(response.headers()["edgeway-fault"], code.name());
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let length = response.headers()["content-length"].clone();
            let text = response.into_body().collect(4096).await.expect("whole");
            assert_eq!(length, text.len().to_string());
            let problem: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(problem["code"], code.name());
            assert_eq!(problem["status"], code.http_status().as_u16());
            assert_eq!(problem["title"], code.title());
            assert_eq!(problem["detail"], "the \"reason\"");
            assert_eq!(problem["type"], format!("https://edgeway.dev/faults/{}", code.name()));
            assert_eq!(problem.as_object().expect("an object").len(), 5);
        }
    }

    #[tokio::test]
    async fn since_leg_and_retry_after_are_told() {
        let fault = Fault::deadline(Leg::Service)
            .since_of(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
            .retry_after_of(Duration::from_millis(1001));
        let response = fault_response(&fault);
        assert_eq!(response.headers()["retry-after"], "2");
        let text = response.into_body().collect(4096).await.expect("whole");
        let problem: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(problem["leg"], "service");
        assert_eq!(problem["since"], "2023-11-14T22:13:20Z");
        assert_eq!(problem["retryAfter"], 2);
        assert_eq!(fault_response(&Fault::overloaded("x", Duration::ZERO)).headers()["retry-after"], "1");
    }
}
