//! serde's messages in the words of whoever writes a config. Values are not repeated unless a type of ours does so.

use serde_yaml::Value;

use crate::settings::shorten;

/// What a value is, for "found …".
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a value with a YAML tag",
    }
}

/// What to say of a field that nobody knows.
pub(super) fn unknown_field<S: AsRef<str>>(allowed: &[S]) -> String {
    match allowed {
        [] => "unknown field, none are allowed here".into(),
        [only] => format!("unknown field, allowed is only: {}", only.as_ref()),
        several => {
            let several: Vec<&str> = several.iter().map(AsRef::as_ref).collect();
            format!("unknown field, allowed are: {}", several.join(", "))
        }
    }
}

/// The name in "missing field `name`".
pub(super) fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.strip_suffix('`')
}

/// serde's `message` about the value `found`, if there is one, at a path whose last key is `key`.
pub(super) fn reword(message: &str, found: Option<&Value>, key: &str) -> String {
    if message.starts_with("unknown field `") {
        return unknown_field(&names_after_expected(message));
    }
    if message.starts_with("unknown variant `") {
        let allowed = names_after_expected(message).join(", ");
        return match found {
            Some(Value::String(text)) if !repeats_secret(text, found, key) => {
                format!("'{}' is not known, allowed are: {allowed}", shorten(text))
            }
            _ => format!("not a value that is known, allowed are: {allowed}"),
        };
    }
    if let Some((_, expected)) = split_expected(message, "invalid type: ") {
        return match found {
            Some(found) => format!("found {}, expected {}", kind_of(found), plain_type(expected)),
            None => format!("expected {}", plain_type(expected)),
        };
    }
    if let Some((_, expected)) = split_expected(message, "invalid value: ") {
        return match range_of(expected) {
            Some(range) => format!("out of range, {range} are allowed"),
            None => format!("not allowed, expected {}", plain_type(expected)),
        };
    }
    if let Some((_, expected)) = split_expected(message, "invalid length ") {
        return format!("wrong number of elements, expected {}", plain_type(expected));
    }
    if repeats_secret(message, found, key) {
        return "not valid (the value is not repeated here, it may be a secret)".into();
    }
    match message {
        // What the standard library says leaves out what is allowed.
        "invalid socket address syntax" => {
            "not an address with a port: write an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080"
                .into()
        }
        "invalid IP address syntax" => "not an IP address: write one such as 127.0.0.1 or ::1".into(),
        message => cut(message),
    }
}

/// Messages of plugins can be of any length; nobody reads more than this.
fn cut(message: &str) -> String {
    const MOST: usize = 400;
    match message.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

fn split_expected<'a>(message: &'a str, start: &str) -> Option<(&'a str, &'a str)> {
    // The last one: what was found may itself contain the word.
    message.strip_prefix(start)?.rsplit_once(", expected ")
}

/// The names in backticks of "…, expected one of `a`, `b`".
fn names_after_expected(message: &str) -> Vec<&str> {
    let Some((_, names)) = message.split_once("`, expected ") else { return Vec::new() };
    names.split('`').skip(1).step_by(2).collect()
}

fn plain_type(expected: &str) -> String {
    match expected {
        "a map" | "map" => "a mapping".into(),
        "a sequence" | "sequence" => "a list".into(),
        "a boolean" | "bool" => "true or false".into(),
        "socket address" => "an IP address and a port, such as 127.0.0.1:8080".into(),
        "IP address" => "an IP address".into(),
        "path string" => "a path".into(),
        "unit" => "nothing".into(),
        "f32" | "f64" => "a number".into(),
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => {
            "a whole number of at least 1".into()
        }
        _ if range_of(expected).is_some() => "a whole number".into(),
        _ if expected.starts_with("struct ") => "a mapping".into(),
        _ if expected.starts_with("enum ") => "one of its names".into(),
        _ => expected.to_owned(),
    }
}

fn range_of(expected: &str) -> Option<String> {
    let (least, most) = match expected {
        "u8" => (0, u64::from(u8::MAX)),
        "u16" => (0, u64::from(u16::MAX)),
        "u32" => (0, u64::from(u32::MAX)),
        "u64" | "usize" => (0, u64::MAX),
        "i8" => (i64::from(i8::MIN), i8::MAX as u64),
        "i16" => (i64::from(i16::MIN), i16::MAX as u64),
        "i32" => (i64::from(i32::MIN), i32::MAX as u64),
        "i64" | "isize" => (i64::MIN, i64::MAX as u64),
        _ => return None,
    };
    Some(format!("{least} to {most}"))
}

/// Whether `message` contains a text that lies under a key which sounds like a secret.
fn repeats_secret(message: &str, found: Option<&Value>, key: &str) -> bool {
    match found {
        Some(Value::String(text)) => is_secret(key) && !text.is_empty() && message.contains(text.as_str()),
        Some(Value::Number(number)) => is_secret(key) && message.contains(&number.to_string()),
        Some(Value::Sequence(list)) => list.iter().any(|element| repeats_secret(message, Some(element), key)),
        Some(Value::Mapping(mapping)) => mapping.iter().any(|(inner, value)| {
            let inner = inner.as_str().unwrap_or_default();
            repeats_secret(message, Some(value), if is_secret(key) { key } else { inner })
        }),
        Some(Value::Tagged(tagged)) => repeats_secret(message, Some(&tagged.value), key),
        _ => false,
    }
}

fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    ["password", "passwd", "passphrase", "secret", "token", "credential", "key"]
        .iter()
        .any(|word| key.contains(word))
}
