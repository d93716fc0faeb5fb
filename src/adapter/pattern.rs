//! PEFT's `rank_pattern` and `alpha_pattern`: numbers for modules, by the ends of their names.

use anyhow::Result;
use serde_json::Value;

use crate::error::input_error;

/// Numbers by whole name or end of a name, in the file's order: the first that fits counts, as in
/// PEFT's `get_pattern_key`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Patterns(Vec<(Pattern, f64)>);

#[derive(Clone, Debug, PartialEq)]
struct Pattern {
    name: String,
    /// Written with `^`: the whole name, not an end.
    whole: bool,
}

impl Patterns {
    /// Reads `{"q_proj": 4}`; `what` names it in errors.
    ///
    /// # Errors
    /// Patterns that are regular expressions beyond plain names; values that are no numbers.
    pub fn read(json: Option<&Value>, what: &str) -> Result<Self> {
        let map = match json {
            None | Some(Value::Null) => return Ok(Patterns::default()),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(input_error(format!("{what} is {other}, not a mapping"))),
        };
        let mut patterns = Vec::new();
        for (key, value) in map {
            let whole = key.starts_with('^');
            let name = key.trim_start_matches('^').trim_end_matches('$');
            let name = name.replace("\\.", ".");
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let number = value.as_f64();
            let (Some(number), true) = (number, name.chars().all(plain)) else {
                return Err(input_error(format!(
                    "{what} has the entry \"{key}\": {value}; module names or their ends with a \
                     number are supported, regular expressions are not"
                )));
            };
            patterns.push((Pattern { name, whole }, number));
        }
        Ok(Patterns(patterns))
    }

    /// The number of a module.
    pub fn find(&self, module: &str) -> Option<f64> {
        let fits = |pattern: &Pattern| {
            module
                .strip_suffix(pattern.name.as_str())
                .is_some_and(|before| {
                    before.is_empty() || (!pattern.whole && before.ends_with('.'))
                })
        };
        let found = self.0.iter().find(|(pattern, _)| fits(pattern));
        found.map(|&(_, number)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_name_or_end_of_a_name_that_fits_counts() {
        let json = json!({"layers.1.q_proj": 4, "q_proj": 8, "^lm_head": 2, "v\\.x": 1});
        let patterns = Patterns::read(Some(&json), "x").unwrap();
        assert_eq!(patterns.find("model.layers.1.q_proj"), Some(4.0));
        assert_eq!(patterns.find("model.layers.2.q_proj"), Some(8.0));
        assert_eq!(patterns.find("lm_head"), Some(2.0));
        assert_eq!(patterns.find("model.lm_head"), None);
        assert_eq!(patterns.find("model.xq_proj"), None);
        assert_eq!(patterns.find("v.x"), Some(1.0));
    }

    #[test]
    fn regular_expressions_are_refused_and_not_taken_for_names() {
        for key in ["layers\\.[0-9]+", ".*q_proj"] {
            let error = Patterns::read(Some(&json!({key: 4})), "x").unwrap_err();
            assert!(error.to_string().contains("regular expressions"), "{error}");
        }
    }
}
