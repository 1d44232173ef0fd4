//! Every problem of a config file in one report.

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
};

/// Exit code for a bad config or bad usage: `EX_USAGE` of BSD's sysexits.
pub const BAD_CONFIG: u8 = 64;

/// One thing that is wrong with a config, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where: a path like `routes[3].timeouts.request`; empty for the file as a whole.
    pub path: String,
    /// What is wrong, and what is allowed. Repeats no secret.
    pub message: String,
}

impl Problem {
    /// A problem at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// All problems of one file. Its text is meant for the person who wrote the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it, in the order in which it was found.
    pub problems: Vec<Problem>,
}

impl Report {
    /// A report with one problem.
    pub fn of(file: &Path, problem: Problem) -> Self {
        Self { file: file.to_owned(), problems: vec![problem] }
    }

    /// `Ok(value)` if there is a value and no problem.
    ///
    /// # Errors
    /// The report of all problems.
    ///
    /// # Panics
    /// If there is neither a value nor a problem, which is a mistake of the code that checked the file.
    pub fn or<T>(file: &Path, problems: Vec<Problem>, value: Option<T>) -> Result<T, Self> {
        if problems.is_empty() {
            return Ok(value.expect("a section without a problem has a value"));
        }
        Err(Self { file: file.to_owned(), problems })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "{}: {count} problem{plural}", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl Error for Report {}

/// The path of a field below `path`.
pub fn join(path: &str, field: &str) -> String {
    if path.is_empty() || field.is_empty() || field.starts_with('[') {
        format!("{path}{field}")
    } else {
        format!("{path}.{field}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_for_the_file_and_one_for_each_problem() {
        let report = Report {
            file: "hub.yaml".into(),
            problems: vec![
                Problem::new("routes[3].timeouts.request", "too long"),
                Problem::new("", "no routes"),
            ],
        };
        assert_eq!(
            report.to_string(),
            "hub.yaml: 2 problems\n  routes[3].timeouts.request: too long\n  no routes"
        );
        let one = Report::of(Path::new("a.yaml"), Problem::new("x", "y"));
        assert_eq!(one.to_string(), "a.yaml: 1 problem\n  x: y");
    }

    #[test]
    fn paths_are_joined_as_they_are_read() {
        assert_eq!(join("", "tunnel"), "tunnel");
        assert_eq!(join("tunnel", "listen"), "tunnel.listen");
        assert_eq!(join("routes", "[3]"), "routes[3]");
        assert_eq!(join("routes[3]", ""), "routes[3]");
    }
}
