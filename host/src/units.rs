//! Durations and sizes as they are written in a config: `5s`, `1m30s`, `64KiB`.
//!
//! The types here stand in raw sections only; validated ones hold [`Duration`] and plain numbers of bytes.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// Longest duration that is accepted: ten years. Far over any sensible timeout, far under what a clock overflows at.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Largest size that is accepted: 1 EiB, so that sums of a few can't overflow.
const LARGEST: u64 = 1 << 60;

/// A duration longer than zero, written in the Gateway API's form (GEP-2257): whole numbers, each followed by `h`, `m`,
/// `s` or `ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

/// A [`Period`] that may also be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeriodOrZero(pub Duration);

/// A number of bytes of at least one, written as a plain number or with `B`, `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// The size as a length in memory. Sizes that don't fit are the largest that do.
    pub fn length(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Why a text is no duration or size. Says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not of the form of a duration.
    #[error("'{0}' is no duration: write whole numbers with a unit, such as 500ms, 5s, 1m30s or 2h")]
    NoDuration(String),
    /// A duration of zero where none makes sense.
    #[error("must be longer than zero")]
    ZeroDuration,
    /// A duration over the longest.
    #[error("'{0}' is too long: at most ten years (87600h) are allowed")]
    TooLong(String),
    /// Not of the form of a size.
    #[error(
        "'{0}' is no size: write a whole number of bytes, alone or with a unit, such as 4096, 64KiB, 1MiB or 2GiB"
    )]
    NoSize(String),
    /// A size of zero.
    #[error("must be at least 1 byte")]
    ZeroSize,
    /// A size over the largest.
    #[error("'{0}' is too large: at most 1048576TiB are allowed")]
    TooLarge(String),
}

/// Parses a duration, zero included.
///
/// # Errors
/// Not of the form, or longer than ten years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let malformed = || UnitError::NoDuration(echo(text));
    let too_long = || UnitError::TooLong(echo(text));
    let mut rest = text;
    let mut total = Duration::ZERO;
    // GEP-2257 allows four parts, one for each unit.
    let mut parts = 0;
    while !rest.is_empty() {
        let (number, after) = digits(rest).filter(|_| parts < 4).ok_or_else(malformed)?;
        let unit_length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 3600 * 1000,
            _ => return Err(malformed()),
        };
        let number: u64 = number.parse().map_err(|_| too_long())?;
        let part = number.checked_mul(milliseconds).ok_or_else(too_long)?;
        total = total.checked_add(Duration::from_millis(part)).ok_or_else(too_long)?;
        parts += 1;
        rest = after;
    }
    if parts == 0 {
        return Err(malformed());
    }
    if total > LONGEST { Err(too_long()) } else { Ok(total) }
}

/// Parses a size, zero included.
///
/// # Errors
/// Not of the form, or larger than 1 EiB.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let malformed = || UnitError::NoSize(echo(text));
    let too_large = || UnitError::TooLarge(echo(text));
    let (number, unit) = digits(text).ok_or_else(malformed)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(malformed()),
    };
    let number: u64 = number.parse().map_err(|_| too_large())?;
    number.checked_mul(factor).filter(|bytes| *bytes <= LARGEST).ok_or_else(too_large)
}

/// Splits off the leading digits, `None` if there are none.
fn digits(text: &str) -> Option<(&str, &str)> {
    let length = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (length > 0).then(|| text.split_at(length))
}

/// What of a wrong text is repeated to its author.
fn echo(text: &str) -> String {
    const MOST: usize = 40;
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

struct DurationText;

impl Visitor<'_> for DurationText {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as 500ms, 5s, 1m30s or 2h")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse_duration(text).map_err(E::custom)
    }
}

struct SizeText;

impl Visitor<'_> for SizeText {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as 4096, 64KiB, 1MiB or 2GiB")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        parse_size(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
        if bytes > LARGEST { Err(E::custom(UnitError::TooLarge(bytes.to_string()))) } else { Ok(bytes) }
    }
}

impl<'de> Deserialize<'de> for PeriodOrZero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationText).map(Self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(DurationText)? {
            Duration::ZERO => Err(de::Error::custom(UnitError::ZeroDuration)),
            duration => Ok(Self(duration)),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(SizeText)? {
            0 => Err(de::Error::custom(UnitError::ZeroSize)),
            bytes => Ok(Self(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: de::DeserializeOwned>(text: &str) -> Result<T, String> {
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn durations_are_whole_numbers_with_units() {
        for (text, milliseconds) in
            [("0s", 0), ("500ms", 500), ("5s", 5_000), ("1m", 60_000), ("1m30s", 90_000), ("2h", 7_200_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        let long = "9".repeat(30);
        for bad in ["", "5", "s", "5 s", "-5s", "1.5s", "5S", "5sec", "5s5", " 5s", "1s1s1s1s1s", "٥s", &long]
        {
            assert!(matches!(parse_duration(bad), Err(UnitError::NoDuration(_))), "{bad:?} was taken");
        }
        for bad in ["87601h", "99999999999999999999s", "18446744073709551615h"] {
            assert!(matches!(parse_duration(bad), Err(UnitError::TooLong(_))), "{bad:?} was taken");
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_binary_unit() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("7B", 7), ("64KiB", 65_536), ("2GiB", 2 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "1KB", "1kib", "-1", "1.5MiB", "1 MiB", "1MiBs"] {
            assert!(matches!(parse_size(bad), Err(UnitError::NoSize(_))), "{bad:?} was taken");
        }
        for bad in ["1048577TiB", "99999999999999999999"] {
            assert!(matches!(parse_size(bad), Err(UnitError::TooLarge(_))), "{bad:?} was taken");
        }
        assert_eq!(parse::<Size>("4096"), Ok(Size(4096)), "a plain YAML number is a size, too");
    }

    #[test]
    fn a_wrong_unit_is_told_with_what_is_allowed() {
        assert!(
            parse::<Period>("5").expect_err("a bare number").contains("expected a duration such as 500ms")
        );
        assert!(parse::<Period>("soon").expect_err("a word").contains("write whole numbers with a unit"));
        assert_eq!(parse::<Period>("0s"), Err("must be longer than zero".into()));
        assert_eq!(parse::<PeriodOrZero>("0s"), Ok(PeriodOrZero(Duration::ZERO)));
        assert_eq!(parse::<Size>("0"), Err("must be at least 1 byte".into()));
        assert!(parse::<Size>("-1").expect_err("negative").contains("expected a size such as 4096"));
        let long = parse::<Period>(&"x".repeat(1000)).expect_err("no duration");
        assert!(long.len() < 200, "a long text is cut: {long}");
    }
}
