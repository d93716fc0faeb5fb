//! The file that a form writes: YAML with a reason above every key.

use super::desk::{Row, Suggestion};
use super::form::{Field, Form, METHODS};

impl Form {
    /// The config, commented.
    pub fn yaml(&self) -> String {
        let lang = self.lang;
        let mut out = format!("# {}\n", lang.file_intro());
        for field in self.fields() {
            let value = self.value(field).trim();
            match field {
                Field::File => continue,
                Field::Method => {
                    let lines = METHODS[self.method()].1;
                    if !lines.is_empty() {
                        out += &format!("\n# {}: {}\n", value, self.why(field));
                        lines.iter().for_each(|l| out += &format!("{l}\n"));
                    }
                    continue;
                }
                _ if value.is_empty() => continue,
                Field::Base => out += &format!("\n# {}\n", lang.the_base_is(self.why(field))),
                Field::Data => out += &format!("\n# {}\n", lang.the_data_is(self.why(field))),
                _ => {
                    let why = self.why(field);
                    if !why.is_empty() {
                        out += &format!("\n# {why}\n");
                    } else {
                        out.push('\n');
                    }
                }
            }
            let value = match field {
                Field::Prompt => format!("[{}]", quoted(value)),
                Field::Trigger => quoted(value),
                Field::Base | Field::Data | Field::Output => plain_or_quoted(value),
                _ => value.to_owned(),
            };
            out += &format!("{}: {value}\n", field.key());
        }
        if let Some(Ok(Suggestion {
            row: Row::Pixels { recompute, .. },
            ..
        })) = &self.suggestion
        {
            let mut line = |why: &str, line: &str| out += &format!("\n# {why}\n{line}\n");
            if *recompute {
                line(lang.why_recompute(), "gradient_checkpointing: true");
            }
            line(lang.why_buckets(), "buckets: true");
            line(lang.why_snr(), "min_snr_gamma: 5");
            line(lang.why_cache(), "cache_latents: true");
            line(lang.why_formats(), "export_formats: [kohya, diffusers]");
        }
        out
    }
}

/// A double-quoted YAML string.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A path as it is where YAML reads it as the same text.
fn plain_or_quoted(value: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "./_-:~+@".contains(c);
    let safe = value.chars().all(plain)
        && value.starts_with(|c: char| c.is_alphanumeric() || "./~".contains(c))
        && !value.ends_with(':');
    let text = value.parse::<f64>().is_err() && value != "~";
    if safe && text {
        value.to_owned()
    } else {
        quoted(value)
    }
}
