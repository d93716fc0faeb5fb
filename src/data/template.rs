//! Chat templates: Jinja, with what Hugging Face's templates expect to find.

use std::io::{self, Write};

use anyhow::Result;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};

use super::formats::Message;
use crate::error::input_error;
use crate::model::Tokenizer;

/// Instructions a rendering may take, where 64 bytes of text that it makes cost as much as one: a
/// conversation of a thousand messages takes some ten thousand. It bounds memory as well, to 128 MiB.
const FUEL: u64 = 2_000_000;

/// Bytes a rendering may have beyond 16 times its messages.
const OUTPUT: usize = 1 << 20;

/// The date that templates see. Today's would make the same data another one tomorrow, and a resumed
/// run another run; this is the date Llama 3's own templates fall back to.
const DATE: (i32, u32, u32) = (2024, 7, 26);

/// A compiled chat template.
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: String,
    eos_token: String,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// The template a run uses: the config's, else the tokenizer's own, else none.
    ///
    /// # Errors
    /// It is not valid Jinja.
    pub fn of(tokenizer: &Tokenizer, own: Option<&str>) -> Result<Option<Self>> {
        let (source, whose) = match (own, tokenizer.chat_template.as_deref()) {
            (Some(own), _) => (own, "chat_template"),
            (None, Some(theirs)) => (theirs, "the base's chat template"),
            (None, None) => return Ok(None),
        };
        let token = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or_default();
        ChatTemplate::compile(
            source,
            token(tokenizer.bos),
            token(tokenizer.eos.first().copied()),
        )
        .map(Some)
        .map_err(|e| {
            let line = e.line().map_or(String::new(), |l| format!(" (line {l})"));
            input_error(format!(
                "{whose} is not valid Jinja: {}{line}; write a `chat_template` that is",
                e.detail().unwrap_or("it cannot be parsed")
            ))
        })
    }

    fn compile(
        source: &str,
        bos_token: String,
        eos_token: String,
    ) -> Result<Self, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()?,
        );
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<Value, minijinja::Error> {
                Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
            },
        );
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, plain_blocks(source))?;
        Ok(ChatTemplate {
            environment,
            source: source.to_owned(),
            bos_token,
            eos_token,
        })
    }

    /// A hash of all that decides how a conversation is rendered.
    pub fn fingerprint(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for part in [&self.source, &self.bos_token, &self.eos_token] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize()
    }

    /// The conversation as text, with the opening of the assistant's next turn if asked.
    ///
    /// # Errors
    /// Why the template refuses it.
    pub fn render(&self, messages: &[Message], open_turn: bool) -> Result<String, String> {
        let list: Vec<Value> = messages
            .iter()
            .map(|m| context! { role => m.role.as_str(), content => &m.content })
            .collect();
        let size: usize = messages.iter().map(|m| m.content.len()).sum();
        let mut output = Bounded {
            bytes: Vec::with_capacity(size + 256),
            limit: size * 16 + OUTPUT,
        };
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| reason(&e))?;
        let rendered = template.render_captured_to(
            context! {
                messages => list,
                add_generation_prompt => open_turn,
                bos_token => &self.bos_token,
                eos_token => &self.eos_token,
                tools => (),
                documents => (),
            },
            &mut output,
        );
        rendered.map_err(|e| reason(&e))?;
        String::from_utf8(output.bytes)
            .map_err(|_| "the chat template printed text that is not UTF-8".into())
    }
}

/// A sentence on why a rendering failed.
fn reason(error: &minijinja::Error) -> String {
    let line = error
        .line()
        .map_or(String::new(), |l| format!(" (its line {l})"));
    match error.kind() {
        ErrorKind::OutOfFuel => {
            "the chat template does not come to an end, or makes too much text".into()
        }
        ErrorKind::WriteFailure => "the chat template prints without end".into(),
        kind => format!(
            "the chat template refuses it: {}{line}",
            error.detail().map_or(kind.to_string(), str::to_owned)
        ),
    }
}

/// `{% generation %}` marks the assistant's part for transformers; here it is found otherwise.
fn plain_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        // Of `{%}` the percent sign cannot be both marks'.
        let inside = start + 2;
        let Some(end) = rest[inside..].find("%}").map(|e| inside + e) else {
            break;
        };
        let tag = &rest[inside..end];
        let replacement = match tag.trim_matches(['-', '+', ' ', '\n', '\t']) {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        out.push_str(&rest[..inside]);
        out.push_str(&replacement);
        out.push_str("%}");
        rest = &rest[end + 2..];
    }
    out + rest
}

/// Python's `strftime` of [`DATE`], for the directives that templates use.
fn strftime_now(format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (year, month, day) = DATE;
    let name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year % 100),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('b') => out += &name[..3],
            Some('B') => out += name,
            Some('A') => out += "Friday",
            Some('a') => out += "Fri",
            Some('H' | 'M' | 'S') => out += "00",
            Some('%') => out.push('%'),
            Some(other) => {
                out.push('%');
                out.push(other);
            }
            None => out.push('%'),
        }
    }
    out
}

/// `tojson` as transformers defines it: Python's `json.dumps(..., ensure_ascii=False)`, which puts
/// a space after commas and colons and escapes nothing for HTML.
fn to_json(value: Serde<serde_json::Value>, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted and without effect here: keys keep their order, and text stays as it is.
    let _: (Option<bool>, Option<bool>) = (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let mut out = String::new();
    dump(&value, indent, 0, &mut out);
    Ok(out)
}

fn dump(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.push_str(&" ".repeat(width.min(16) * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(comma);
                }
                line(out, depth + 1);
                dump(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push(']');
        }
        serde_json::Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push_str(comma);
                }
                line(out, depth + 1);
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push_str(": ");
                dump(item, indent, depth + 1, out);
            }
            line(out, depth);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// Collects output up to a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + piece.len() > self.limit {
            return Err(io::Error::other("too much output"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::formats::Role;

    /// The fixture is made by `tests/tools/make_chat_fixtures.py`.
    #[test]
    fn templates_render_as_transformers_renders_them() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/chat_templates.json"
        );
        let cases: Vec<serde_json::Value> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(cases.len() > 40);
        for case in cases {
            let messages: Vec<Message> = case["messages"]
                .as_array()
                .unwrap()
                .iter()
                .map(|m| Message {
                    role: match m["role"].as_str().unwrap() {
                        "system" => Role::System,
                        "user" => Role::User,
                        _ => Role::Assistant,
                    },
                    content: m["content"].as_str().unwrap().to_owned(),
                })
                .collect();
            let source = case["template"].as_str().unwrap();
            let template = ChatTemplate::compile(source, "<s>".into(), "</s>".into()).unwrap();
            let open_turn = case["add_generation_prompt"].as_bool().unwrap();
            assert_eq!(
                template.render(&messages, open_turn).as_deref(),
                Ok(case["rendered"].as_str().unwrap()),
                "{}",
                case["name"]
            );
        }
    }

    #[test]
    fn dates_and_json_are_those_of_python() {
        let source = "{{ strftime_now('%d %b %Y, %A %B %m/%y 100%%') }} {{ {'a': [1, '<é>'], 'b': none} | tojson }} {{ [1, {}] | tojson(indent=2) }}";
        let template = ChatTemplate::compile(source, String::new(), String::new()).unwrap();
        assert_eq!(
            template.render(&[], false).unwrap(),
            "26 Jul 2024, Friday July 07/24 100% {\"a\": [1, \"<é>\"], \"b\": null} [\n  1,\n  {}\n]"
        );
    }
}
