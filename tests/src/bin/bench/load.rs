//! Many small calls: wrk as the callers, and what it says.

use std::{net::SocketAddr, process::Command, time::Duration};

use crate::Outcome;

/// One run of wrk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) calls: u64,
    pub(crate) calls_per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Calls `path` over `connections` connections for a time. A call that fails, or is answered with an error, fails the
/// run: the speed of refusals is of no interest.
pub(crate) fn run(target: SocketAddr, path: &str, connections: u32, time: Duration) -> Outcome<Run> {
    let url = format!("http://{target}{path}");
    let seconds = time.as_secs().max(1);
    let output = Command::new("wrk")
        // One thread: it saturates two cores' worth of services, and a second would take their time.
        .args(["-t1", "--latency", "--timeout", "10s"])
        .args([format!("-c{connections}"), format!("-d{seconds}s"), url.clone()])
        .output()
        .map_err(|error| format!("can't run wrk (Debian package wrk): {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).map_err(|error| format!("wrk on {url}: {error}\n{text}").into())
}

fn parse(text: &str) -> Outcome<Run> {
    let mut run = Run { calls: 0, calls_per_second: 0.0, p50: Duration::ZERO, p99: Duration::ZERO };
    for line in text.lines().map(str::trim) {
        if line.starts_with("Non-2xx") || line.starts_with("Socket errors") {
            return Err(line.into());
        } else if let Some(value) = line.strip_prefix("50%") {
            run.p50 = time(value.trim())?;
        } else if let Some(value) = line.strip_prefix("99%") {
            run.p99 = time(value.trim())?;
        } else if let Some(value) = line.strip_prefix("Requests/sec:") {
            run.calls_per_second = value.trim().parse()?;
        } else if let Some((calls, _)) = line.split_once(" requests in ") {
            run.calls = calls.parse()?;
        }
    }
    if run.calls == 0 { Err("no call was answered".into()) } else { Ok(run) }
}

fn time(text: &str) -> Outcome<Duration> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic()).ok_or("a time without its unit")?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(format!("unit {unit} of a time").into()),
    };
    Ok(Duration::from_secs_f64(number.parse::<f64>()? * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "Running 4s test @ http://127.0.0.1:1/0
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   626.54us  280.73us  10.72ms   93.05%
  Latency Distribution
     50%  580.00us
     75%  677.00us
     90%    0.86ms
     99%    1.59ms
  412072 requests in 4.10s, 30.26MB read
Requests/sec: 100503.96
Transfer/sec:      7.38MB
";

    #[test]
    fn what_wrk_prints_is_read() {
        let run = parse(OUTPUT).expect("a run");
        assert_eq!((run.calls, run.calls_per_second), (412_072, 100_503.96));
        assert_eq!((run.p50, run.p99), (Duration::from_micros(580), Duration::from_micros(1590)));
    }

    #[test]
    fn a_run_with_errors_is_no_result() {
        for line in
            ["  Non-2xx or 3xx responses: 7\n", "  Socket errors: connect 0, read 3, write 0, timeout 0\n"]
        {
            assert!(parse(&format!("{OUTPUT}{line}")).is_err());
        }
        assert!(parse("unable to connect to 127.0.0.1:1 Connection refused\n").is_err());
    }
}
