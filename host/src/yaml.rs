//! From a config file to typed sections, with every problem and its path.
//!
//! [`read_document`] reads a file and checks what it is; [`decode`] turns a part of it into a type. YAML is touched
//! here only: behind this module there are typed sections.
//!
//! serde stops at the first error. To find them all, [`decode`] takes what is wrong out of the value and tries again:
//!
//! ```text
//!   value ──▶ serde ──ok──▶ done
//!     ▲         │ wrong value or unknown field at P ──▶ report it, remove P ────────────┐
//!     │         │ missing field P.x ──▶ report it, put a placeholder into P.x ──────────┤
//!     │         │ a placeholder does not fit ──▶ next placeholder; none left: remove P ─┤
//!     └─────────────────────────────────────────────────────────────────────────────────┘
//! ```

mod patch;
mod wording;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_yaml::{Mapping, Value};

use self::patch::Patches;
use crate::{
    Problem, Report,
    report::join,
    settings::{plain_io_error, shorten},
};

/// The `apiVersion` of every config of this build.
pub const API_VERSION: &str = "edgeway.dev/v1alpha1";

/// Largest config file, in bytes. Holds about five thousand routes; a file that is larger is hardly a config, and
/// reading it whole would only end later and with more memory.
pub const LARGEST_FILE: u64 = 1024 * 1024;

/// Most problems of one section: nobody reads more, and each costs another pass over the section.
const MOST_PROBLEMS: usize = 100;

/// A config file that is YAML and of the expected kind.
#[derive(Debug, Clone)]
pub struct Document {
    /// The folder of the file, from which its relative paths start.
    pub folder: PathBuf,
    /// Everything but `apiVersion` and `kind`.
    pub content: Mapping,
    /// What is wrong already. Add to it, and report all together.
    pub problems: Vec<Problem>,
}

impl Document {
    /// Takes a section out. An absent one and one with nothing in it are the same: an empty mapping.
    pub fn take(&mut self, section: &str) -> Value {
        match self.content.shift_remove(section) {
            None | Some(Value::Null) => Value::Mapping(Mapping::new()),
            Some(value) => value,
        }
    }

    /// Takes a section out and decodes it, see [`decode`]. `T` of an absent section is what an empty mapping decodes to.
    pub fn section<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.take(name);
        decode(value, name, &mut self.problems)
    }

    /// Takes a field out that is no section but a bare value: `Some(None)` if it is absent, `None` if it is wrong.
    pub fn field<T: DeserializeOwned>(&mut self, name: &str) -> Option<Option<T>> {
        let value = self.content.shift_remove(name).unwrap_or(Value::Null);
        let alone = Mapping::from_iter([(Value::from(name), value)]);
        let found_before = self.problems.len();
        let decoded: Option<BTreeMap<String, Option<T>>> = decode(alone.into(), "", &mut self.problems);
        decoded
            .filter(|_| self.problems.len() == found_before)
            .map(|mut decoded| decoded.remove(name).flatten())
    }

    /// Reports every section that was not taken. `known` lists those that could have been.
    pub fn finish(&mut self, known: &[&str]) {
        for (key, _) in std::mem::take(&mut self.content) {
            let key = shorten(key.as_str().unwrap_or_default());
            self.problems.push(Problem::new(key, wording::unknown_field(known)));
        }
    }
}

/// Reads a config file and checks that it is YAML, of this API version and of `kind`.
///
/// Blocks: call it before the runtime starts.
///
/// # Errors
/// One report if the file can't be read, is larger than [`LARGEST_FILE`], not UTF-8, not one YAML document, or of
/// another kind. Lesser problems are left in [`Document::problems`].
pub fn read_document(file: &Path, kind: &str) -> Result<Document, Report> {
    let fail = |message: String| Report::of(file, Problem::new("", message));
    let text = read_text(file).map_err(fail)?;
    let mut content = parse(&text).map_err(fail)?;
    let mut problems = Vec::new();
    remove_odd_keys(&mut content, "", &mut problems);
    let folder = file.parent().unwrap_or(Path::new("")).to_owned();
    let mut document = Document { folder, content, problems };
    let mut of_another_kind = false;
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", kind)] {
        let message = match document.content.shift_remove(field) {
            Some(Value::String(found)) if found == expected => continue,
            None => format!("is missing, expected {expected}"),
            Some(found) => {
                of_another_kind = true;
                match found {
                    Value::String(found) => format!("is '{}', expected {expected}", shorten(&found)),
                    found => format!("found {}, expected {expected}", wording::kind_of(&found)),
                }
            }
        };
        document.problems.push(Problem::new(field, message));
    }
    if of_another_kind {
        // The rest would be measured against the wrong words.
        return Err(Report { file: file.to_owned(), problems: document.problems });
    }
    Ok(document)
}

fn read_text(file: &Path) -> Result<String, String> {
    let cant_read = |error: std::io::Error| format!("can't read the file: {}", plain_io_error(&error));
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file at the limit from one above it.
    File::open(file)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))
        .map_err(cant_read)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(format!("the file is larger than {LARGEST_FILE} bytes, the most that is allowed"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        let line_start = valid.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let column = String::from_utf8_lossy(&valid[line_start..]).chars().count() + 1;
        format!("not UTF-8 at line {line} column {column}")
    })
}

fn parse(text: &str) -> Result<Mapping, String> {
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let first = match documents.next() {
        Some(first) => Value::deserialize(first).map_err(|error| format!("not valid YAML: {error}"))?,
        None => Value::Null,
    };
    if let Some(second) = documents.next() {
        // A broken second document is told as such, not as one too many.
        Value::deserialize(second).map_err(|error| format!("not valid YAML: {error}"))?;
        return Err("the file holds more than one YAML document ('---' between them), one is allowed".into());
    }
    let mut first = first;
    first.apply_merge().map_err(|error| format!("a merge key ('<<') can't be applied: {error}"))?;
    match first {
        Value::Mapping(content) => Ok(content),
        Value::Null => Err(format!("the file is empty, expected apiVersion: {API_VERSION} and so on")),
        other => Err(format!("found {}, expected a mapping", wording::kind_of(&other))),
    }
}

/// Decodes the section of a config that lies at `path`, a mapping, and reports every problem with it, each with its own path.
///
/// `None` if no value could be made without guessing: something required is missing or wrong, or a list lost an element,
/// so that indices would lie. A value may come together with problems: then what was wrong was left out, as if it was
/// never written, so that further checks can find more. Whoever sees a problem must not use the value for more than
/// that.
pub fn decode<T: DeserializeOwned>(value: Value, path: &str, problems: &mut Vec<Problem>) -> Option<T> {
    // "rest:" with nothing behind it is a section without fields.
    let value = if value.is_null() { Value::Mapping(Mapping::new()) } else { value };
    if !matches!(value, Value::Mapping(_)) {
        // serde would take a list for the fields in order, which is nothing that people write on purpose.
        problems.push(Problem::new(path, format!("found {}, expected a mapping", wording::kind_of(&value))));
        return None;
    }
    let mut patches = Patches::new(value);
    let found_before = problems.len();
    loop {
        let error = match serde_path_to_error::deserialize(patches.value()) {
            Ok(decoded) => return patches.is_faithful().then_some(decoded),
            Err(error) => error,
        };
        let at: Vec<_> = error.path().iter().cloned().collect();
        let message = error.inner().to_string();
        let (at, problem) = patches.apply(at, &message);
        if let Some(message) = problem {
            problems.push(Problem::new(join(path, &at), message));
        }
        if patches.is_spent() {
            return None;
        }
        if problems.len() - found_before >= MOST_PROBLEMS {
            problems.push(Problem::new(path, "has more problems than are shown"));
            return None;
        }
    }
}

/// Decodes the section at `path` and makes something of it. `None` if there is any problem; `make` returns those that it
/// finds, each with its path within the section.
pub fn decode_and_make<T: DeserializeOwned, V>(
    section: Value,
    path: &str,
    problems: &mut Vec<Problem>,
    make: impl FnOnce(T) -> Result<V, Vec<(String, String)>>,
) -> Option<V> {
    let found_before = problems.len();
    let decoded = decode(section, path, problems)?;
    // Make it even if decoding left something out: that may find more, and what is made is dropped.
    match make(decoded) {
        Ok(made) => (problems.len() == found_before).then_some(made),
        Err(found) => {
            problems.extend(found.into_iter().map(|(at, message)| Problem::new(join(path, &at), message)));
            None
        }
    }
}

/// Reports and removes keys that are no strings: serde would take a number for the index of a field.
fn remove_odd_keys(mapping: &mut Mapping, path: &str, problems: &mut Vec<Problem>) {
    mapping.retain(|key, _| {
        if !key.is_string() {
            let shown = match key {
                Value::Number(number) => format!("'{number}' is a number"),
                Value::Bool(bool) => format!("'{bool}' is true or false"),
                other => format!("one is {}", wording::kind_of(other)),
            };
            problems.push(Problem::new(
                path,
                format!("keys are strings, but {shown}; quote it to make it a string"),
            ));
        }
        key.is_string()
    });
    for (key, value) in mapping {
        remove_odd_keys_of(value, &join(path, &shorten(key.as_str().unwrap_or_default())), problems);
    }
}

fn remove_odd_keys_of(value: &mut Value, path: &str, problems: &mut Vec<Problem>) {
    match value {
        Value::Mapping(mapping) => remove_odd_keys(mapping, path, problems),
        Value::Sequence(list) => {
            for (index, element) in list.iter_mut().enumerate() {
                remove_odd_keys_of(element, &format!("{path}[{index}]"), problems);
            }
        }
        Value::Tagged(tagged) => remove_odd_keys_of(&mut tagged.value, path, problems),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
