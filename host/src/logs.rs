//! Logs of a process: to standard error, as text or JSON, filtered by `EDGEWAY_LOG`.

use std::{error::Error, fmt, io, str::FromStr};

use tracing_subscriber::{EnvFilter, Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

/// The environment variable that holds the filter, in the syntax of tracing's directives: `info`,
/// `warn,cloud_hub=debug`.
pub const FILTER_VARIABLE: &str = "EDGEWAY_LOG";

/// The filter where the variable is absent or empty.
const DEFAULT_FILTER: &str = "info";

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogError::Format(crate::settings::shorten(text))),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such format.
    #[error("log format '{0}' is not known, allowed are: text, json")]
    Format(String),
    /// A filter that does not parse.
    #[error(
        "{FILTER_VARIABLE} is no filter: write a level such as info, or pairs such as warn,cloud_hub=debug"
    )]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// A filter that is not UTF-8.
    #[error("{FILTER_VARIABLE} is not UTF-8")]
    FilterEncoding,
    /// The process logs already.
    #[error("logs are already set up")]
    Again(#[source] tracing_subscriber::util::TryInitError),
}

/// Starts logging for the whole process.
///
/// # Errors
/// A wrong filter, or a second call.
pub fn start(format: LogFormat) -> Result<(), LogError> {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(filter) => filter,
        Err(std::env::VarError::NotPresent) => String::new(),
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogError::FilterEncoding),
    };
    let filter = parse_filter(&filter)?;
    tracing_subscriber::registry().with(layer(format).with_filter(filter)).try_init().map_err(LogError::Again)
}

fn parse_filter(filter: &str) -> Result<EnvFilter, LogError> {
    let filter = if filter.trim().is_empty() { DEFAULT_FILTER } else { filter };
    EnvFilter::builder().parse(filter).map_err(LogError::Filter)
}

fn layer(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        // Colours only for eyes: a file or a pipe gets plain text.
        LogFormat::Text => layer.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Prints an error together with its sources: `can't listen on 127.0.0.1:80: permission denied`.
#[derive(Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A chain is a handful of layers; this many means that it is a ring.
        const MOST: usize = 32;
        write!(f, "{}", self.0)?;
        let sources =
            std::iter::successors(self.0.source(), |error: &&(dyn Error + 'static)| (*error).source());
        for source in sources.take(MOST) {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layered(&'static str, #[source] Option<Box<Layered>>);

    #[test]
    fn a_chain_prints_every_layer_once() {
        let error = Layered("a", Some(Box::new(Layered("b", Some(Box::new(Layered("c", None)))))));
        assert_eq!(Chain(&error).to_string(), "a: b: c");
        assert_eq!(Chain(&Layered("alone", None)).to_string(), "alone");
    }

    #[test]
    fn filters_are_levels_and_directives() {
        for good in ["", " ", "debug", "warn,cloud_hub=debug", "off"] {
            parse_filter(good).expect("a filter");
        }
        for bad in ["cloud_hub=loud", "a=b=c"] {
            let error = parse_filter(bad).expect_err("no filter");
            assert!(error.to_string().starts_with("EDGEWAY_LOG is no filter"), "{error}");
        }
        assert_eq!(parse_filter("").expect("the default").to_string(), "info");
    }

    #[test]
    fn formats_are_read_as_they_are_written() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().expect("a format"), format);
        }
        let error = "xml".parse::<LogFormat>().expect_err("no format");
        assert_eq!(error.to_string(), "log format 'xml' is not known, allowed are: text, json");
    }
}
