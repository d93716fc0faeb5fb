//! From a record's content to token ids and the mask of what is trained on.

use std::ops::Range;

use super::duplicates::Words;
use super::files::{Raw, RawRecord};
use super::formats::{Content, Message, Role, Unusable, join, parse};
use super::template::ChatTemplate;
use super::{BadKind, BadRecord, Record};
use crate::model::Tokenizer;

/// Turns raw records into tokenised ones.
///
/// Chats, instructions and prompts with completions go through the chat template where there is
/// one. Without, they take these plain forms, after the begin-of-sequence token of bases that want
/// one, and before the end-of-sequence token:
///
/// - chats: `User: ...` and `Assistant: ...` lines, the system message as a paragraph before them
/// - instructions: Stanford Alpaca's prompt with its `### Instruction:` and `### Response:`
/// - prompt and completion: one after the other, on a new line unless either brings white space
pub(super) struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub template: Option<ChatTemplate>,
    pub sequence_len: usize,
    pub train_on_inputs: bool,
}

/// A text and its parts that are trained on, as byte ranges in order.
#[derive(Debug, Default)]
struct Marked {
    text: String,
    spans: Vec<Range<usize>>,
    /// Whether special tokens stand in the text already (a template wrote them).
    templated: bool,
}

impl Marked {
    fn push(&mut self, text: &str, trained: bool) {
        let from = self.text.len();
        self.text.push_str(text);
        if trained {
            self.spans.push(from..self.text.len());
        }
    }
}

impl Encoder<'_> {
    /// A hash of all that decides what becomes of a record.
    ///
    /// # Errors
    /// The tokenizer cannot be written down.
    pub fn fingerprint(&self) -> anyhow::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.tokenizer.fingerprint()?.as_bytes());
        if let Some(template) = &self.template {
            hasher.update(template.fingerprint().as_bytes());
        }
        hasher.update(&(self.sequence_len as u64).to_le_bytes());
        hasher.update(&[u8::from(self.train_on_inputs)]);
        Ok(hasher.finalize())
    }

    /// The records of one raw record: one, but for documents that are cut into pieces.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn records(&self, raw: &RawRecord) -> Result<Vec<(Record, Words)>, BadRecord> {
        let bad = |unusable: Unusable| BadRecord {
            file: raw.file.clone(),
            line: raw.line,
            kind: unusable.kind,
            reason: unusable.reason,
        };
        let (format, content) = parse(&raw.raw).map_err(bad)?;
        let origin = format!("{}:{}", raw.file, raw.line);
        if let Content::Document(text) = &content {
            let pieces = self.document(&origin, text).map_err(bad)?;
            let counted = pieces.into_iter().map(|piece| {
                let mut words = Words::default();
                words.add_tokens(&piece.ids);
                (piece, words)
            });
            return Ok(counted.collect());
        }
        let words = words_of(&content);
        let template = |reason| Unusable::new(BadKind::Template, reason);
        let marked = self.marked(&content).map_err(|e| bad(template(e)))?;
        let (ids, trained) = self.encode(&marked).map_err(|e| bad(e.into()))?;
        self.record(origin, format, ids, trained)
            .map(|record| vec![(record, words)])
            .map_err(bad)
    }

    fn record(
        &self,
        origin: String,
        format: &'static str,
        mut ids: Vec<u32>,
        mut trained: Vec<bool>,
    ) -> Result<Record, Unusable> {
        let (length, limit) = (ids.len(), self.sequence_len);
        let cut = length.saturating_sub(limit);
        ids.truncate(limit);
        trained.truncate(limit);
        // The first token is predicted by nothing.
        if trained.iter().skip(1).all(|t| !t) {
            return Err(if cut > 0 {
                let reason = format!(
                    "all that would be trained on lies beyond `sequence_len: {limit}` (it has \
                     {length} tokens)"
                );
                Unusable::new(BadKind::TooLong, reason)
            } else {
                let reason = format!("it has nothing to train on (it has {length} tokens)");
                Unusable::new(BadKind::Empty, reason)
            });
        }
        Ok(Record {
            origin,
            format,
            ids,
            trained,
            cut,
        })
    }

    /// A document in pieces of `sequence_len`. Each begins with the begin-of-sequence token, or,
    /// in bases without, with the last token of the piece before: so every token is predicted.
    fn document(&self, origin: &str, text: &str) -> Result<Vec<Record>, Unusable> {
        let mut ids = self.ids(text)?;
        ids.extend(self.tokenizer.eos.first());
        let bos = self.bos();
        let piece = self.sequence_len - bos.iter().len();
        let mut records = Vec::new();
        let mut from = 0;
        while from < ids.len() {
            let to = (from + piece).min(ids.len());
            let mut part: Vec<u32> = bos.into_iter().collect();
            part.extend(&ids[from..to]);
            let origin = if ids.len() > piece {
                format!("{origin}, piece {}", records.len() + 1)
            } else {
                origin.to_owned()
            };
            let trained = vec![true; part.len()];
            records.push(self.record(origin, "text", part, trained)?);
            if to == ids.len() {
                break;
            }
            from = if bos.is_some() { to } else { to - 1 };
        }
        if records.is_empty() {
            return Err(Unusable::new(BadKind::Empty, "the file is empty"));
        }
        Ok(records)
    }

    fn marked(&self, content: &Content) -> Result<Marked, String> {
        let user = |content: String| Message {
            role: Role::User,
            content,
        };
        let assistant = |content: &String| Message {
            role: Role::Assistant,
            content: content.clone(),
        };
        let mut marked = Marked::default();
        match (content, &self.template) {
            (Content::Chat(messages), Some(template)) => return chat(template, messages),
            (
                Content::Instruction {
                    instruction,
                    input,
                    output,
                },
                Some(template),
            ) => {
                let messages = [user(join(instruction, input)), assistant(output)];
                return chat(template, &messages);
            }
            (Content::Completion { prompt, completion }, Some(template)) => {
                return chat(template, &[user(prompt.clone()), assistant(completion)]);
            }
            (Content::Chat(messages), None) => {
                for (i, message) in messages.iter().enumerate() {
                    let last = i + 1 == messages.len();
                    match message.role {
                        Role::System => marked.push(&format!("{}\n\n", message.content), false),
                        Role::User => marked.push(&format!("User: {}\n", message.content), false),
                        Role::Assistant => {
                            marked.push("Assistant:", false);
                            let end = if last { "" } else { "\n" };
                            marked.push(&format!(" {}{end}", message.content), true);
                        }
                    }
                }
            }
            (
                Content::Instruction {
                    instruction,
                    input,
                    output,
                },
                None,
            ) => {
                let (context, input) = if input.trim().is_empty() {
                    ("", String::new())
                } else {
                    (
                        ", paired with an input that provides further context",
                        format!("### Input:\n{input}\n\n"),
                    )
                };
                let prompt = format!(
                    "Below is an instruction that describes a task{context}. Write a response \
                     that appropriately completes the request.\n\n### \
                     Instruction:\n{instruction}\n\n{input}### Response:\n"
                );
                marked.push(&prompt, false);
                marked.push(output, true);
            }
            (Content::Completion { prompt, completion }, None) => {
                let apart = prompt.ends_with(char::is_whitespace)
                    || completion.starts_with(char::is_whitespace);
                marked.push(prompt, false);
                marked.push(if apart { "" } else { "\n" }, false);
                marked.push(completion, true);
            }
            (Content::Text(text) | Content::Document(text), _) => marked.push(text, true),
        }
        Ok(marked)
    }

    fn ids(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer
            .encode(text)
            .map_err(|e| format!("it cannot be tokenised: {e:#}"))
    }

    fn bos(&self) -> Option<u32> {
        self.tokenizer.bos.filter(|_| self.tokenizer.add_bos)
    }

    /// Token ids of a marked text, and which of them are trained on.
    fn encode(&self, marked: &Marked) -> Result<(Vec<u32>, Vec<bool>), String> {
        let mut ids = self.ids(&marked.text)?;
        let mut trained = vec![false; ids.len()];
        let mut last = 0;
        for span in &marked.spans {
            let from = self.tokens_before(marked, &ids, span.start)?;
            let to = self.tokens_before(marked, &ids, span.end)?;
            let to = if marked.templated {
                self.turn_end(&ids, from, to)
            } else {
                to
            };
            trained[from..to].fill(true);
            last = to;
        }
        // The model must learn to stop: where no end-of-turn token follows the last answer, the
        // end-of-sequence token does.
        let ended = last > 0 && last == ids.len() && self.is_special(ids[last - 1]);
        if last == ids.len() && !ended {
            ids.extend(self.tokenizer.eos.first());
            trained.resize(ids.len(), true);
        }
        if !marked.templated
            && let Some(bos) = self.bos()
        {
            ids.insert(0, bos);
            trained.insert(0, false);
        }
        if self.train_on_inputs {
            trained.fill(true);
        }
        Ok((ids, trained))
    }

    /// How many of the text's tokens lie before byte `at`. A token that reaches over it is counted
    /// behind it.
    fn tokens_before(&self, marked: &Marked, ids: &[u32], at: usize) -> Result<usize, String> {
        if at == 0 {
            return Ok(0);
        }
        if at == marked.text.len() {
            return Ok(ids.len());
        }
        let before = self.ids(&marked.text[..at])?;
        let common = before.iter().zip(ids).take_while(|(a, b)| a == b);
        Ok(common.count())
    }

    /// Where an assistant's turn that was found at `from..to` ends: behind its end-of-turn token,
    /// and before the white space that templates print after it, which is never generated.
    fn turn_end(&self, ids: &[u32], from: usize, to: usize) -> usize {
        let mut end = to;
        while end > from && self.is_blank(ids[end - 1]) {
            end -= 1;
        }
        if end > from && self.is_special(ids[end - 1]) {
            end
        } else if ids
            .get(to)
            .is_some_and(|id| self.tokenizer.eos.contains(id))
        {
            to + 1
        } else {
            to
        }
    }

    /// Whether a token is one of the special ones, which `decode` leaves out.
    fn is_special(&self, id: u32) -> bool {
        self.tokenizer.eos.contains(&id)
            || (self.text(id, false).is_some_and(|t| t.is_empty())
                && self.text(id, true).is_some_and(|t| !t.is_empty()))
    }

    fn is_blank(&self, id: u32) -> bool {
        self.text(id, true)
            .is_some_and(|t| !t.is_empty() && t.trim().is_empty())
    }

    fn text(&self, id: u32, special: bool) -> Option<String> {
        self.tokenizer.decode(&[id], special).ok()
    }
}

/// The words of a raw record that can be read and is no document.
pub(super) fn words(raw: &Raw) -> Option<Words> {
    match parse(raw).ok()?.1 {
        Content::Document(_) => None,
        content => Some(words_of(&content)),
    }
}

/// What a record says, whatever its format: a system message, which many share, makes none alike.
fn words_of(content: &Content) -> Words {
    let mut words = Words::default();
    match content {
        Content::Chat(messages) => {
            for message in messages {
                match message.role {
                    Role::System => words.exact_only(&message.content),
                    _ => words.add(&message.content),
                }
            }
        }
        Content::Instruction {
            instruction,
            input,
            output,
        } => {
            words.add(&join(instruction, input));
            words.add(output);
        }
        Content::Completion { prompt, completion } => {
            words.add(prompt);
            words.add(completion);
        }
        Content::Text(text) | Content::Document(text) => words.add(text),
    }
    words
}

/// A conversation through the chat template, the assistant's turns marked.
fn chat(template: &ChatTemplate, messages: &[Message]) -> Result<Marked, String> {
    let text = template.render(messages, false)?;
    let mut spans = Vec::new();
    let mut from = 0;
    for (i, message) in messages.iter().enumerate() {
        if message.role == Role::Assistant {
            let span = between_prefixes(template, messages, i, &text)
                .filter(|span| span.start >= from)
                .or_else(|| content_in(&text, from, &message.content))
                .ok_or_else(|| {
                    format!(
                        "the chat template does not print message {} as it is",
                        i + 1
                    )
                })?;
            from = span.end;
            spans.push(span);
        } else if let Some(span) = content_in(&text, from, &message.content) {
            // Past it, so that an answer that repeats its question is not found inside it.
            from = span.end;
        }
    }
    Ok(Marked {
        text,
        spans,
        templated: true,
    })
}

/// The turn of `messages[i]`: what the rendering up to it adds to the rendering that ends where the
/// assistant is about to speak, if both begin the whole rendering.
fn between_prefixes(
    template: &ChatTemplate,
    messages: &[Message],
    i: usize,
    text: &str,
) -> Option<Range<usize>> {
    let before = template.render(&messages[..i], true).ok()?;
    let through = if i + 1 == messages.len() {
        text.len()
    } else {
        let through = template.render(&messages[..=i], false).ok()?;
        text.starts_with(&through).then_some(through.len())?
    };
    (text.starts_with(&before) && before.len() < through).then_some(before.len()..through)
}

/// Where a message's content stands in the rendering, for templates whose prefixes do not agree.
fn content_in(text: &str, from: usize, content: &str) -> Option<Range<usize>> {
    let content = content.trim();
    let at = from + text.get(from..)?.find(content)?;
    Some(at..at + content.len())
}
