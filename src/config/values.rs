//! Reading one YAML value, and writing one back on one line.

use serde_yaml::Value;

/// Why a value was refused: the end of a sentence that begins with `key: value`, and the fix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fault {
    pub verdict: String,
    /// Empty: the key's documented example is offered.
    pub fix: String,
}

impl Fault {
    pub fn new(verdict: impl Into<String>, fix: impl Into<String>) -> Self {
        Fault {
            verdict: verdict.into(),
            fix: fix.into(),
        }
    }

    /// "is not a whole number ...", with the key's example as the fix.
    pub fn is_not(what: impl std::fmt::Display) -> Self {
        Fault::new(format!("is not {what}"), "")
    }

    /// The same fault with another fix.
    pub fn fixed(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

/// A finite number. Quoted numbers count: `2e-4` is text to many YAML tools, so people quote it.
fn finite(value: &Value) -> Option<f64> {
    match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
    .filter(|x| x.is_finite())
}

/// A whole number from `min` to `max`, also written `1e3` or `8.0`.
pub(super) fn whole(value: &Value, min: u64, max: u64) -> Result<u64, Fault> {
    let exact = match value {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    };
    // Above 2^53 an f64 no longer names one whole number.
    let rounded = || {
        finite(value)
            .filter(|x| x.fract() == 0.0 && (0.0..9e15).contains(x))
            .map(|x| x as u64)
    };
    exact
        .or_else(rounded)
        .filter(|n| (min..=max).contains(n))
        .ok_or_else(|| {
            Fault::is_not(if max == u64::MAX {
                format!("a whole number, {min} or more")
            } else {
                format!("a whole number from {min} to {max}")
            })
        })
}

pub(super) fn count(value: &Value, min: usize, max: usize) -> Result<usize, Fault> {
    whole(value, min as u64, max as u64).map(|n| n as usize)
}

/// A number that passes `fits`; `what` describes those: "a number above 0".
pub(super) fn number(value: &Value, fits: impl Fn(f64) -> bool, what: &str) -> Result<f64, Fault> {
    finite(value)
        .filter(|x| fits(*x))
        .ok_or_else(|| Fault::is_not(what))
}

pub(super) fn boolean(value: &Value) -> Result<bool, Fault> {
    match value {
        Value::Bool(b) => Ok(*b),
        Value::String(s) if s == "true" => Ok(true),
        Value::String(s) if s == "false" => Ok(false),
        _ => Err(Fault::is_not("true or false")),
    }
}

/// One of a few words; `other` maps words of other tools to ours for the fix.
pub(super) fn word<T: Copy>(
    value: &Value,
    words: &[(&str, T)],
    other: &[(&str, &str)],
) -> Result<T, Fault> {
    let text = text_of(value).unwrap_or_default();
    let text = text.trim();
    if let Some((_, found)) = words.iter().find(|(w, _)| *w == text) {
        return Ok(*found);
    }
    let list: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
    let lower = text.to_lowercase();
    let meant = other
        .iter()
        .find(|(w, _)| *w == lower)
        .map(|(_, ours)| *ours)
        .or_else(|| super::names::nearest(&lower, list.iter().copied()));
    Err(Fault::new(
        format!("is not {}", one_of(&list)),
        meant.map_or_else(String::new, |m| format!("did you mean `{m}`?")),
    ))
}

/// "`a`, `b` or `c`".
pub(super) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("`{w}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// A scalar as the text a person wrote (numbers and booleans too), or `None` for lists and maps.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Text that is not blank.
pub(super) fn text(value: &Value) -> Result<String, Fault> {
    match text_of(value) {
        Some(s) if s.trim().is_empty() => Err(Fault::is_not("text: it is empty")),
        Some(s) => Ok(s),
        None => Err(Fault::is_not("text")),
    }
}

/// A list of texts; a single text is a list of one.
pub(super) fn texts(value: &Value) -> Result<Vec<String>, Fault> {
    let list: Option<Vec<String>> = match value {
        Value::Sequence(items) => items.iter().map(|item| text(item).ok()).collect(),
        other => text(other).ok().map(|one| vec![one]),
    };
    list.ok_or_else(|| Fault::is_not("text or a list of texts, none of them empty"))
}

/// A value as YAML on one line, shortened for messages.
pub(super) fn shown(value: &Value) -> String {
    let line = match value {
        Value::Null => String::new(),
        Value::Sequence(items) => flow(items.iter().map(shown)),
        Value::Mapping(_) => "{...}".into(),
        Value::Tagged(tagged) => format!("{} {}", tagged.tag, shown(&tagged.value)),
        Value::String(s) => quoted(s),
        Value::Number(n) if n.is_f64() => decimal(n.as_f64().unwrap_or(f64::NAN)),
        other => text_of(other).unwrap_or_default(),
    };
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}

/// A YAML list on one line.
pub(super) fn flow(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// A number as YAML, short: `2e-4`, `0.05`, `200`.
pub(super) fn decimal(x: f64) -> String {
    if x.is_nan() {
        ".nan".into()
    } else if x.is_infinite() {
        if x > 0.0 { ".inf" } else { "-.inf" }.into()
    } else if x != 0.0 && !(1.0001e-3..1e9).contains(&x.abs()) {
        format!("{x:e}")
    } else {
        format!("{x}")
    }
}

/// Text as a YAML scalar on one line, quoted where it must be.
pub(super) fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./:".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/' || c == '.')
        && !text.ends_with(':')
        && matches!(serde_yaml::from_str::<Value>(text), Ok(Value::String(s)) if s == text);
    if plain {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            // YAML allows no control characters, and takes these separators for line ends.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives_being_written_as_yaml_and_read_back() {
        for text in [
            "plain",
            "true",
            "8",
            "2e-4",
            "null",
            "~",
            "-",
            "- a",
            "a: b",
            "a #b",
            "it's \"so\"\\",
            "two\nlines\n",
            "tab\tand \r",
            "\u{1}\u{7f}\u{85}\u{2028}\u{feff}",
            "{{ a }}",
            "[x, y]",
            "C:\\models",
            "日本語 ✓",
            " spaced ",
            "key:",
            "./a/b-c_1.0",
        ] {
            let list = flow([quoted(text)]);
            let back: Value = serde_yaml::from_str(&list).unwrap();
            assert_eq!(back, Value::Sequence(vec![text.into()]), "{list}");
        }
    }

    #[test]
    fn every_number_survives_being_written_as_yaml_and_read_back() {
        for x in [2e-4, 0.05, 0.1 + 0.2, 200.0, 1e-12, 3e12, 1e-3, 5e-324, 0.0] {
            let back: Value = serde_yaml::from_str(&decimal(x)).unwrap();
            assert_eq!(finite(&back), Some(x), "{}", decimal(x));
        }
    }

    #[test]
    fn rates_are_read_however_people_write_them() {
        for text in [
            "2e-4",
            "2.0E-4",
            "\"0.0002\"",
            "0.0002",
            "'2e-4'",
            "2.e-4",
            "+2e-4",
        ] {
            let value: Value = serde_yaml::from_str(text).unwrap();
            assert_eq!(number(&value, |_| true, ""), Ok(2e-4), "{text}");
        }
    }
}
