//! What was measured: as tables for people, as JSON for comparisons, and beside the goals.

use std::{fmt::Write, fs, path::Path, time::Duration};

use serde::Serialize;

use crate::Outcome;

/// Everything of one run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) calls: Vec<CallRow>,
    pub(crate) bulk: Vec<BulkRow>,
    pub(crate) memory: Vec<MemoryRow>,
    pub(crate) slow_readers: Option<SlowReaders>,
    pub(crate) idle_sessions: Option<IdleSessions>,
    pub(crate) goals: Vec<Goal>,
}

/// Small calls over one way, medians of the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct CallRow {
    pub(crate) way: &'static str,
    pub(crate) body: &'static str,
    pub(crate) connections: u32,
    pub(crate) calls_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) hops: Vec<Hop>,
}

/// What one process on the way used.
#[derive(Debug, Serialize)]
pub(crate) struct Hop {
    pub(crate) name: &'static str,
    pub(crate) cpu_us_per_call: f64,
    pub(crate) peak_bytes: u64,
}

/// One large body, median of the rounds.
#[derive(Debug, Serialize)]
pub(crate) struct BulkRow {
    pub(crate) way: &'static str,
    pub(crate) direction: &'static str,
    pub(crate) bytes: u64,
    pub(crate) bytes_per_second: f64,
}

/// How much a process grew over one very large body.
#[derive(Debug, Serialize)]
pub(crate) struct MemoryRow {
    pub(crate) name: &'static str,
    pub(crate) body_bytes: u64,
    pub(crate) resident_before: u64,
    pub(crate) peak_during: u64,
}

/// Other calls beside many slow readers.
#[derive(Debug, Serialize)]
pub(crate) struct SlowReaders {
    pub(crate) readers: u32,
    pub(crate) p99_us_before: f64,
    /// While the windows fill, right after all of them came.
    pub(crate) p99_us_onset: f64,
    pub(crate) p99_us_during: f64,
    pub(crate) hub_bytes_per_reader: f64,
    pub(crate) agent_bytes_per_reader: f64,
}

/// What sessions cost that do nothing.
#[derive(Debug, Serialize)]
pub(crate) struct IdleSessions {
    pub(crate) sessions: u32,
    pub(crate) opened_in_ms: f64,
    pub(crate) hub_bytes_per_session: f64,
    pub(crate) agent_bytes_per_session: f64,
}

/// A number beside what it should be.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) what: &'static str,
    pub(crate) is: f64,
    pub(crate) should: String,
    pub(crate) met: bool,
}

impl Report {
    /// Compares what was measured with the goals; what was not measured is left out.
    pub(crate) fn judge(&mut self) {
        let mut goals = Vec::new();
        let mut at_least = |what, is: f64, bound: f64| {
            goals.push(Goal { what, is, should: format!("at least {bound}"), met: is >= bound });
        };
        let ratio = |connections| {
            let nginx = self.row("nginx", "1 KiB", connections)?;
            Some(self.row("edgeway", "1 KiB", connections)?.calls_per_second / nginx.calls_per_second)
        };
        if let Some(ratio) = ratio(64) {
            at_least("calls/s at 64 connections, of nginx", ratio, 0.6);
        }
        for (what, direction) in
            [("100 MB down, of a raw QUIC stream", "down"), ("100 MB up, of a raw QUIC stream", "up")]
        {
            let speed = |way| self.bulk.iter().find(|row| row.way == way && row.direction == direction);
            if let (Some(edgeway), Some(raw)) = (speed("edgeway"), speed("raw quinn")) {
                at_least(what, edgeway.bytes_per_second / raw.bytes_per_second, 0.8);
            }
        }
        let mut at_most = |what, is: f64, bound: f64| {
            goals.push(Goal { what, is, should: format!("at most {bound}"), met: is <= bound });
        };
        if let (Some(edgeway), Some(nginx)) = (self.row("edgeway", "1 KiB", 1), self.row("nginx", "1 KiB", 1))
        {
            at_most("p50 at one connection, of nginx's", edgeway.p50_us / nginx.p50_us, 2.3);
        }
        if let Some(edgeway) = self.row("edgeway", "1 KiB", 64) {
            let cpu = edgeway.hops.iter().map(|hop| hop.cpu_us_per_call).sum();
            at_most("CPU of hub and agent per call at 64 connections, us", cpu, 32.0);
        }
        for row in &self.memory {
            let what = if row.name == "hub" {
                "growth of the hub over the large body, MB"
            } else {
                "growth of the agent over the large body, MB"
            };
            at_most(what, row.peak_during.saturating_sub(row.resident_before) as f64 / 1e6, 32.0);
        }
        if let Some(slow) = &self.slow_readers {
            at_most("p99 beside slow readers, of that without", slow.p99_us_during / slow.p99_us_before, 1.5);
        }
        if let Some(idle) = &self.idle_sessions {
            at_most("idle session on the hub, KiB", idle.hub_bytes_per_session / 1024.0, 48.0);
        }
        self.goals = goals;
    }

    fn row(&self, way: &str, body: &str, connections: u32) -> Option<&CallRow> {
        self.calls.iter().find(|row| row.way == way && row.body == body && row.connections == connections)
    }

    /// The tables.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing into a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        if !self.calls.is_empty() {
            writeln!(
                out,
                "\n{:<9} {:>6} {:>6} {:>10} {:>9} {:>9} {:>9}  CPU us per call (peak memory) of each process",
                "way", "body", "conns", "calls/s", "of nginx", "p50", "p99"
            )?;
            for row in &self.calls {
                let nginx = self.row("nginx", row.body, row.connections);
                let ratio = nginx.map_or("-".into(), |nginx| {
                    format!("{:.2}", row.calls_per_second / nginx.calls_per_second)
                });
                write!(
                    out,
                    "{:<9} {:>6} {:>6} {:>10.0} {ratio:>9} {:>6.0} us {:>6.0} us ",
                    row.way, row.body, row.connections, row.calls_per_second, row.p50_us, row.p99_us
                )?;
                for hop in &row.hops {
                    write!(
                        out,
                        " {} {:.1} ({:.0} MB)",
                        hop.name,
                        hop.cpu_us_per_call,
                        hop.peak_bytes as f64 / 1e6
                    )?;
                }
                writeln!(out)?;
            }
        }
        if !self.bulk.is_empty() {
            writeln!(out, "\n{:<12} {:>9} {:>9} {:>9} {:>9}", "way", "direction", "MB", "MB/s", "of raw")?;
            for row in &self.bulk {
                let raw =
                    self.bulk.iter().find(|raw| raw.way == "raw quinn" && raw.direction == row.direction);
                let ratio = raw
                    .map_or("-".into(), |raw| format!("{:.2}", row.bytes_per_second / raw.bytes_per_second));
                writeln!(
                    out,
                    "{:<12} {:>9} {:>9.0} {:>9.0} {ratio:>9}",
                    row.way,
                    row.direction,
                    row.bytes as f64 / 1e6,
                    row.bytes_per_second / 1e6
                )?;
            }
        }
        for row in &self.memory {
            writeln!(
                out,
                "\n{} over one body of {:.0} MB: {:.1} MB before, {:.1} MB at most",
                row.name,
                row.body_bytes as f64 / 1e6,
                row.resident_before as f64 / 1e6,
                row.peak_during as f64 / 1e6
            )?;
        }
        if let Some(slow) = &self.slow_readers {
            writeln!(
                out,
                "\n{} slow readers: p99 of other calls {:.0} us before, {:.0} us at their onset, {:.0} us during; memory per \
                 reader: hub {:.0} B, agent {:.0} B",
                slow.readers,
                slow.p99_us_before,
                slow.p99_us_onset,
                slow.p99_us_during,
                slow.hub_bytes_per_reader,
                slow.agent_bytes_per_reader
            )?;
        }
        if let Some(idle) = &self.idle_sessions {
            writeln!(
                out,
                "\n{} idle sessions, opened in {:.0} ms: hub {:.0} B each, agent {:.0} B each",
                idle.sessions, idle.opened_in_ms, idle.hub_bytes_per_session, idle.agent_bytes_per_session
            )?;
        }
        if !self.goals.is_empty() {
            writeln!(out, "\n{:<52} {:>9}  {:<14}", "goal", "is", "should be")?;
            for goal in &self.goals {
                let verdict = if goal.met { "met" } else { "MISSED" };
                writeln!(out, "{:<52} {:>9.2}  {:<14} {verdict}", goal.what, goal.is, goal.should)?;
            }
        }
        Ok(())
    }

    /// Writes the JSON.
    pub(crate) fn save(&self, path: &Path) -> Outcome<()> {
        Ok(fs::write(path, serde_json::to_vec_pretty(self)?)?)
    }
}

/// The middle value; of an even number the lower one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// A time in microseconds.
pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(way: &'static str, connections: u32, calls_per_second: f64, p50_us: f64) -> CallRow {
        let hops = vec![Hop { name: way, cpu_us_per_call: 20.0, peak_bytes: 1 }];
        CallRow { way, body: "1 KiB", connections, calls_per_second, p50_us, p99_us: 1.0, hops }
    }

    #[test]
    fn goals_are_judged_on_what_was_measured_and_on_nothing_else() {
        let mut report = Report::default();
        report.judge();
        assert!(report.goals.is_empty());
        report.calls = vec![
            row("nginx", 1, 1.0, 100.0),
            row("edgeway", 1, 1.0, 231.0),
            row("nginx", 64, 50_000.0, 1.0),
            row("edgeway", 64, 30_000.0, 1.0),
        ];
        report.judge();
        let verdicts: Vec<_> = report.goals.iter().map(|goal| (goal.is, goal.met)).collect();
        assert_eq!(verdicts, [(0.6, true), (2.31, false), (20.0, true)]);
        assert!(report.text().contains("MISSED"));
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0]), 1.0);
        assert!(median([]).is_nan());
    }
}
