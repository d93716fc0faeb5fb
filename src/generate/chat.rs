//! A conversation with a base whose adapters can be switched and weighed anew between two turns.

use anyhow::Result;

use super::{SamplingOptions, Session, encode_chat};
use crate::data::{Message, Role};
use crate::error::input_error;
use crate::model::{Active, Base, LoraSet};

/// An adapter of a conversation.
pub struct Loaded {
    /// As the person named it, without a strength.
    pub name: String,
    pub set: LoraSet,
    pub strength: f64,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The answer to show.
    Told(String),
    /// Strengths changed: the answer to show.
    Weighed(String),
    Quit,
}

/// What came of a turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub text: String,
    /// Messages that were forgotten, as the base's context was full.
    pub forgotten: usize,
}

/// Opens an adapter named as `ADAPTER[:WEIGHT]`.
pub type Open<'a> = dyn Fn(&str) -> Result<Loaded> + 'a;

pub const HELP: &str = "\
/adapters              the adapters and their strengths
/load ADAPTER[:WEIGHT] add an adapter
/weight N WEIGHT       weigh an adapter (by number or name) anew; 0 switches it off
/unload N              remove an adapter
/system TEXT           set the system message; without a text, remove it
/set [KEY VALUE]       show the sampling settings, or change one
/reset                 forget the conversation
/quit                  leave (also Ctrl-D)
A line that begins with two slashes is said with one. Ctrl-C stops a reply.";

/// A conversation.
pub struct Chat<'a> {
    base: &'a Base,
    template: Option<String>,
    adapters: Vec<Loaded>,
    options: SamplingOptions,
    messages: Vec<Message>,
    /// What has been read with the adapters as they are; none after a change.
    session: Option<Session<'a>>,
}

impl<'a> Chat<'a> {
    pub fn new(
        base: &'a Base,
        template: Option<String>,
        adapters: Vec<Loaded>,
        options: SamplingOptions,
    ) -> Self {
        Chat {
            base,
            template,
            adapters,
            options,
            messages: Vec::new(),
            session: None,
        }
    }

    pub fn strengths(&self) -> Vec<f64> {
        self.adapters.iter().map(|a| a.strength).collect()
    }

    /// Sets, or with an empty text removes, the system message; forgets the conversation.
    pub fn set_system(&mut self, text: &str) {
        self.messages.clear();
        if !text.is_empty() {
            self.messages.push(Message {
                role: Role::System,
                content: text.to_owned(),
            });
        }
    }

    /// The assistant's answer to `text`; `on_text` gets it piece by piece and stops it by returning
    /// false. Where the context is full, the oldest turns are forgotten.
    ///
    /// # Errors
    /// The chat template refuses the conversation, a message longer than the context, the device
    /// fails. The conversation is then as it was before.
    pub fn reply(&mut self, text: &str, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Reply> {
        let before = self.messages.clone();
        self.messages.push(Message {
            role: Role::User,
            content: text.to_owned(),
        });
        let reply = self.answer(on_text);
        match &reply {
            Ok(reply) => self.messages.push(Message {
                role: Role::Assistant,
                content: reply.text.trim().to_owned(),
            }),
            Err(_) => self.messages = before,
        }
        reply
    }

    fn answer(&mut self, on_text: &mut dyn FnMut(&str) -> bool) -> Result<Reply> {
        let room = self.base.description.config.max_position_embeddings;
        let template = self.template.as_deref();
        let mut forgotten = 0;
        let ids = loop {
            let ids = encode_chat(&self.base.tokenizer, template, &self.messages)?;
            if ids.len() < room {
                break ids;
            }
            let first = self.messages.iter().position(|m| m.role != Role::System);
            let first = first.unwrap_or(0);
            // The oldest question and its answer; the newest question stays.
            if first + 2 >= self.messages.len() {
                return Err(input_error(format!(
                    "the message has {} tokens, the base's context {room}: shorten it",
                    ids.len()
                )));
            }
            self.messages.drain(first..first + 2);
            forgotten += 2;
        };
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                let active: Vec<Active<'_>> = self
                    .adapters
                    .iter()
                    .filter(|a| a.strength != 0.0)
                    .map(|a| Active {
                        set: &a.set,
                        strength: a.strength,
                    })
                    .collect();
                Session::new(&self.base.decoder, &self.base.tokenizer, &active)?
            }
        };
        // Another draw for every turn, and the same for the same conversation.
        let options = SamplingOptions {
            seed: self.options.seed.wrapping_add(self.messages.len() as u64),
            ..self.options.clone()
        };
        let text = session.generate(&ids, &options, on_text)?;
        self.session = Some(session);
        Ok(Reply { text, forgotten })
    }

    /// Carries out a line that begins with a slash.
    ///
    /// # Errors
    /// No such command, or what it names is wrong: one sentence. Nothing has changed then.
    pub fn command(&mut self, line: &str, open: &Open<'_>) -> Result<Outcome> {
        let line = line.trim();
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match name {
            "/help" | "/?" => Ok(Outcome::Told(HELP.to_owned())),
            "/quit" | "/exit" | "/q" => Ok(Outcome::Quit),
            "/adapters" | "/loras" => Ok(Outcome::Told(self.listed())),
            "/reset" => {
                self.messages.retain(|m| m.role == Role::System);
                Ok(Outcome::Told("the conversation is forgotten".to_owned()))
            }
            "/system" => {
                self.set_system(rest);
                Ok(Outcome::Told(match rest {
                    "" => "no system message; the conversation is forgotten".to_owned(),
                    _ => "the system message is set; the conversation is forgotten".to_owned(),
                }))
            }
            "/load" if !rest.is_empty() => {
                self.adapters.push(open(rest)?);
                self.session = None;
                Ok(Outcome::Weighed(self.listed()))
            }
            "/unload" => {
                let at = self.find(rest)?;
                self.adapters.remove(at);
                self.session = None;
                Ok(Outcome::Weighed(self.listed()))
            }
            "/weight" => {
                let (which, weight) = rest.rsplit_once(char::is_whitespace).unwrap_or((rest, ""));
                let strength = weight.parse::<f64>().ok().filter(|s| s.is_finite());
                let strength = strength.ok_or_else(|| {
                    input_error("write /weight N WEIGHT, for example /weight 1 0.8")
                })?;
                let at = self.find(which.trim())?;
                self.adapters[at].strength = strength;
                self.session = None;
                Ok(Outcome::Weighed(self.listed()))
            }
            "/set" => self.set(rest),
            _ => Err(input_error(format!(
                "there is no command {name}{}; /help lists them",
                if name == "/load" {
                    " without an adapter"
                } else {
                    ""
                }
            ))),
        }
    }

    fn listed(&self) -> String {
        if self.adapters.is_empty() {
            return "no adapters: the bare base answers".to_owned();
        }
        let lines = self.adapters.iter().enumerate();
        let lines: Vec<String> = lines
            .map(|(i, a)| format!("{} {} at {}", i + 1, a.name, a.strength))
            .collect();
        lines.join("\n")
    }

    /// The adapter of a number or a name.
    fn find(&self, which: &str) -> Result<usize> {
        let by_number = which.parse::<usize>().ok().filter(|n| *n >= 1);
        let by_number = by_number
            .map(|n| n - 1)
            .filter(|n| *n < self.adapters.len());
        let by_name = || self.adapters.iter().position(|a| a.name == which);
        by_number.or_else(by_name).ok_or_else(|| {
            input_error(format!(
                "there is no adapter '{which}'; /adapters lists them with their numbers"
            ))
        })
    }

    fn set(&mut self, rest: &str) -> Result<Outcome> {
        let o = &self.options;
        if rest.is_empty() {
            return Ok(Outcome::Told(format!(
                "temperature {}, top-p {}, top-k {}, repetition-penalty {}, seed {}, max-tokens {}",
                o.temperature, o.top_p, o.top_k, o.repetition_penalty, o.seed, o.max_tokens
            )));
        }
        let (key, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let value = value.trim();
        let key = key.replace('_', "-");
        let wrong = || input_error(format!("'{value}' is no value for {key}"));
        let number = || value.parse::<f64>().map_err(|_| wrong());
        let count = || value.parse::<u64>().map_err(|_| wrong());
        let mut options = o.clone();
        match key.as_str() {
            "temperature" => options.temperature = number()?,
            "top-p" => options.top_p = number()?,
            "repetition-penalty" => options.repetition_penalty = number()?,
            "top-k" => options.top_k = count()? as usize,
            "seed" => options.seed = count()?,
            "max-tokens" => options.max_tokens = count()? as usize,
            _ => {
                return Err(input_error(format!(
                    "there is no setting {key}; /set lists them"
                )));
            }
        }
        if let Some((key, why)) = options.problem() {
            return Err(input_error(format!("{key} {why}")));
        }
        self.options = options;
        Ok(Outcome::Told(format!("{key} is {value}")))
    }
}
