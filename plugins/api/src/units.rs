//! Durations and sizes as a section of a config writes them (`5s`, `1m30s`, `64KiB`), for the configs of plugins and
//! connectors.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// Longest duration that is accepted: a day. A timeout or idle time beyond it is a slip of the pen.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A duration, zero included: whole numbers, each followed by `h`, `m`, `s` or `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A number of bytes, zero included: a plain number, or one with `B`, `KiB` or `MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The leading digits as a number, and what follows them.
fn number(text: &str) -> Option<(u64, &str)> {
    let length = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(length);
    digits.parse().ok().map(|number| (number, rest))
}

fn parse_period(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    loop {
        let (count, after) = number(rest)?;
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(count.checked_mul(milliseconds)?))?;
        if after.is_empty() {
            return (total <= LONGEST).then_some(total);
        }
        rest = after;
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (count, unit) = number(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    count.checked_mul(factor)
}

struct PeriodText;

impl Visitor<'_> for PeriodText {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration of at most 24h with a unit, such as 500ms, 5s or 1m30s")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
        parse_period(text).map(Period).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PeriodText)
    }
}

struct SizeText;

impl Visitor<'_> for SizeText {
    type Value = Size;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 4096, 64KiB or 1MiB")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
        parse_size(text).map(Size).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
        Ok(Size(bytes))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_are_read_as_written() {
        for (text, milliseconds) in
            [("0s", 0), ("500ms", 500), ("5s", 5000), ("1m30s", 90_000), ("24h", 86_400_000)]
        {
            assert_eq!(parse_period(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, bytes) in [("0", 0), ("17B", 17), ("64KiB", 65_536), ("1MiB", 1_048_576)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in
            ["", "5", "s", "5 s", "-1s", "25h", "1.5s", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(parse_period(text), None, "{text}");
        }
        for text in ["", "KiB", "1kb", "1 KiB", "-1", "18446744073709551615MiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
