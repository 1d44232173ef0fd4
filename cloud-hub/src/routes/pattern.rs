//! What a route says about paths: whole segments, compared as raw bytes.
//!
//! A path is what stands between its slashes: `/orders/7` has the segments `orders` and `7`, `/orders/` has `orders` and
//! an empty one, `/` has a single empty one. Nothing is decoded: `%2F` is no separator, `%41` is not `A`, and `..` and
//! empty segments are segments like any other.
//!
//! | type | takes |
//! |---|---|
//! | `Exact` | the very same path; `/orders` is not `/orders/` |
//! | `PathPrefix` | paths that begin with its segments; one slash at its end means nothing, so `/orders/` is `/orders`, and `/` takes every path |
//! | `Template` | as a prefix, where `{name}` takes any one segment; what it took is removed from the path that the service sees |

use std::fmt;

use edgeway_host::settings::shorten;
use serde::Deserialize;

/// The types of a path's pattern; the words of the Gateway API's HTTPRoute, and `Template` besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum PathKind {
    /// The very same path.
    Exact,
    /// Paths that begin with these segments.
    PathPrefix,
    /// Paths that begin with these segments, some of which are captures.
    Template,
}

/// Longest pattern, in bytes: that of the Gateway API. It also bounds how deep a look-up goes.
const LONGEST: usize = 1024;

/// A path's pattern, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    kind: PathKind,
    text: Box<str>,
    segments: Box<[Segment]>,
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// These very bytes.
    Literal(Box<str>),
    /// Any one segment, under this name.
    Capture(Box<str>),
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not a path from the root.
    #[error("'{0}' must start with '/'")]
    NotFromRoot(String),
    /// Over the longest.
    #[error("has {0} bytes, at most {LONGEST} are allowed")]
    TooLong(usize),
    /// A query or fragment.
    #[error("'{0}' must have neither '?' nor '#': routes match the path only")]
    BeyondPath(String),
    /// A character that no path has as such.
    #[error("'{path}' contains '{character}', which a path has in percent-encoded form only")]
    Character {
        /// The pattern.
        path: String,
        /// The first such character, escaped.
        character: String,
    },
    /// Braces out of a template.
    #[error("'{0}' contains a brace; captures such as {{node}} need the type Template")]
    BraceOutOfTemplate(String),
    /// A capture that is no whole segment, or has no name.
    #[error(
        "segment '{0}' must be text without braces, or a capture of letters, digits, '-' and '_', such as {{node}}"
    )]
    Capture(String),
    /// The same capture twice.
    #[error("capture {{{0}}} stands there twice")]
    CaptureTwice(String),
}

impl PathPattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// Not a path as it stands in a request, longer than 1024 bytes, or captures that are none.
    pub fn new(kind: PathKind, text: &str) -> Result<Self, PatternError> {
        let shown = || shorten(text);
        if text.len() > LONGEST {
            return Err(PatternError::TooLong(text.len()));
        }
        let Some(below_root) = text.strip_prefix('/') else { return Err(PatternError::NotFromRoot(shown())) };
        if text.contains(['?', '#']) {
            return Err(PatternError::BeyondPath(shown()));
        }
        if let Some(character) = text
            .chars()
            .find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '|'))
        {
            let character = character.escape_debug().to_string();
            return Err(PatternError::Character { path: shown(), character });
        }
        if kind != PathKind::Template && text.contains(['{', '}']) {
            return Err(PatternError::BraceOutOfTemplate(shown()));
        }
        let mut segments = Vec::new();
        for segment in below_root.split('/') {
            segments.push(match kind {
                PathKind::Template => Segment::of_template(segment)?,
                _ => Segment::Literal(segment.into()),
            });
        }
        if kind != PathKind::Exact && segments.last() == Some(&Segment::Literal("".into())) {
            segments.pop();
        }
        for (index, segment) in segments.iter().enumerate() {
            if let Segment::Capture(name) = segment
                && segments[..index].contains(segment)
            {
                return Err(PatternError::CaptureTwice(name.to_string()));
            }
        }
        Ok(Self { kind, text: text.into(), segments: segments.into() })
    }

    /// The pattern that takes every path: the prefix `/`.
    pub fn every() -> Self {
        Self { kind: PathKind::PathPrefix, text: "/".into(), segments: Box::new([]) }
    }

    /// Its type.
    pub fn kind(&self) -> PathKind {
        self.kind
    }

    /// Which segment the capture `name` is, counted from 0.
    pub fn capture(&self, name: &str) -> Option<usize> {
        self.segments
            .iter()
            .position(|segment| matches!(segment, Segment::Capture(capture) if **capture == *name))
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl Segment {
    fn of_template(text: &str) -> Result<Self, PatternError> {
        if !text.contains(['{', '}']) {
            return Ok(Self::Literal(text.into()));
        }
        let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || !name.bytes().all(good) {
            return Err(PatternError::Capture(shorten(text)));
        }
        Ok(Self::Capture(name.into()))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_raw_path() {
        for good in ["/", "/orders", "/orders/", "//", "/a%2Fb/../c", "/~user;x=1/$@!*'(),:+=&", "/%zz"] {
            for kind in [PathKind::Exact, PathKind::PathPrefix, PathKind::Template] {
                let pattern = PathPattern::new(kind, good).expect("a pattern");
                assert_eq!(pattern.to_string(), good);
            }
        }
        for bad in [
            "", "orders", "*", "/a?b", "/a#b", "/a b", "/ä", "/a\u{0}", "/a\\b", "/{node}x", "/{}", "/{a b}",
            "/x}",
        ] {
            assert!(PathPattern::new(PathKind::Template, bad).is_err(), "{bad:?} was taken");
        }
        let long = format!("/{}", "x".repeat(LONGEST));
        assert_eq!(PathPattern::new(PathKind::Exact, &long), Err(PatternError::TooLong(LONGEST + 1)));
    }

    #[test]
    fn captures_are_whole_segments_of_templates() {
        let pattern = PathPattern::new(PathKind::Template, "/nodes/{node}/{service}/").expect("a template");
        assert_eq!(pattern.capture("node"), Some(1));
        assert_eq!(pattern.capture("service"), Some(2));
        assert_eq!(pattern.capture("nodes"), None);
        assert_eq!(pattern.segments().len(), 3, "a slash at the end means nothing");
        let twice = PathPattern::new(PathKind::Template, "/{a}/b/{a}").expect_err("twice");
        assert_eq!(twice.to_string(), "capture {a} stands there twice");
        let out_of_place = PathPattern::new(PathKind::PathPrefix, "/nodes/{node}").expect_err("no template");
        assert_eq!(
            out_of_place.to_string(),
            "'/nodes/{node}' contains a brace; captures such as {node} need the type Template"
        );
    }
}
