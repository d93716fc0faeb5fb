//! What a record is, by its keys.

use serde_json::{Map, Value};

use super::BadKind;
use super::files::{Raw, json_reason};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// A system message at most, then user and assistant in turn.
    Chat(Vec<Message>),
    /// `input` may be empty.
    Instruction {
        instruction: String,
        input: String,
        output: String,
    },
    Completion {
        prompt: String,
        completion: String,
    },
    Text(String),
    /// A `.txt` file, which may be long.
    Document(String),
}

/// A record with its format's name; that of a chat is the format it came in.
pub(super) type Parsed = (&'static str, Content);

/// The formats' names.
pub(super) const FORMATS: [&str; 5] = [
    "messages",
    "sharegpt",
    "alpaca",
    "prompt/completion",
    "text",
];

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unusable {
    pub kind: BadKind,
    pub reason: String,
}

impl Unusable {
    pub fn new(kind: BadKind, reason: impl Into<String>) -> Self {
        Unusable {
            kind,
            reason: reason.into(),
        }
    }
}

/// Where nothing else is said, the record is malformed.
impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Unusable::new(BadKind::Malformed, reason)
    }
}

/// Reads a raw record.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn parse(raw: &Raw) -> Result<Parsed, Unusable> {
    let unreadable = |reason: String| Unusable::new(BadKind::Unreadable, reason);
    match raw {
        Raw::Bad(reason) => Err(unreadable(reason.clone())),
        Raw::Document(text) if text.trim().is_empty() => {
            Err(Unusable::new(BadKind::Empty, "the file is empty"))
        }
        Raw::Document(text) => Ok(("text", Content::Document(text.clone()))),
        Raw::Row(map) => object(map),
        Raw::Json(text) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(map)) => object(&map),
            Ok(other) => Err(Unusable::new(
                BadKind::OtherKind,
                format!("it is {}, not an object", kind(&other)),
            )),
            Err(e) => Err(unreadable(json_reason(&e))),
        },
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn object(map: &Map<String, Value>) -> Result<Parsed, Unusable> {
    if map.contains_key("messages") {
        return Ok(("messages", chat(map, "messages")?));
    }
    if map.contains_key("conversations") {
        return Ok(("sharegpt", chat(map, "conversations")?));
    }
    if map.contains_key("instruction") {
        return alpaca(map);
    }
    if let (Some(prompt), Some(completion)) = (
        one_of(map, &["prompt", "question"]),
        one_of(map, &["completion", "response", "answer"]),
    ) {
        return Ok(("prompt/completion", pair(map, prompt, completion)?));
    }
    if map.contains_key("text") {
        return Ok(("text", Content::Text(answer(map, "text")?)));
    }
    let found: Vec<String> = map.keys().take(8).map(|k| format!("`{k}`")).collect();
    let found = if found.is_empty() {
        "it has no keys".into()
    } else {
        format!("its keys are {}", found.join(", "))
    };
    Err(Unusable::new(
        BadKind::OtherKind,
        format!(
            "{found}; expected `messages`, `conversations`, `instruction` and `output`, `prompt` \
             and `completion`, or `text`"
        ),
    ))
}

fn one_of<'a>(map: &Map<String, Value>, keys: &[&'a str]) -> Option<&'a str> {
    keys.iter().find(|k| map.contains_key(**k)).copied()
}

/// The text under a key that must be there and not be blank.
fn required(map: &Map<String, Value>, key: &str) -> Result<String, String> {
    match map.get(key) {
        Some(Value::String(s)) if s.trim().is_empty() => Err(format!("`{key}` is empty")),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(other) => Err(format!("`{key}` is {}, not a text", kind(other))),
        None => Err(format!("`{key}` is missing")),
    }
}

/// As [`required`], of what is to be learned.
fn answer(map: &Map<String, Value>, key: &str) -> Result<String, Unusable> {
    let kind = match map.get(key) {
        None | Some(Value::Null | Value::String(_)) => BadKind::Empty,
        Some(_) => BadKind::Malformed,
    };
    required(map, key).map_err(|reason| Unusable::new(kind, reason))
}

/// The text under a key, empty where it is absent.
fn optional(map: &Map<String, Value>, key: &str) -> Result<String, String> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(other) => Err(format!("`{key}` is {}, not a text", kind(other))),
    }
}

/// Alpaca: `instruction`, `output`, and perhaps `input`, `system`, `history` (pairs).
fn alpaca(map: &Map<String, Value>) -> Result<Parsed, Unusable> {
    let instruction = required(map, "instruction")?;
    let output_key = one_of(map, &["output", "response"]).unwrap_or("output");
    let output = answer(map, output_key)?;
    let input = optional(map, "input")?;
    let system = optional(map, "system")?;
    let history = match map.get("history") {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(pairs)) => pairs,
        Some(Value::String(s)) if s.is_empty() => &[],
        Some(other) => return Err(format!("`history` is {}, not a list", kind(other)).into()),
    };
    if system.trim().is_empty() && history.is_empty() {
        let content = Content::Instruction {
            instruction,
            input,
            output,
        };
        return Ok(("alpaca", content));
    }
    let mut messages = Vec::new();
    if !system.trim().is_empty() {
        messages.push((Role::System, system));
    }
    for pair in history {
        match pair.as_array().map(Vec::as_slice) {
            Some([Value::String(question), Value::String(answer)]) => {
                messages.push((Role::User, question.clone()));
                messages.push((Role::Assistant, answer.clone()));
            }
            _ => {
                return Err("`history` is not a list of pairs of texts"
                    .to_owned()
                    .into());
            }
        }
    }
    messages.push((Role::User, join(&instruction, &input)));
    messages.push((Role::Assistant, output));
    Ok(("alpaca", conversation(messages)?))
}

/// An instruction and its input as one message.
pub(super) fn join(instruction: &str, input: &str) -> String {
    if input.trim().is_empty() {
        instruction.to_owned()
    } else {
        format!("{instruction}\n\n{input}")
    }
}

fn pair(map: &Map<String, Value>, prompt: &str, completion: &str) -> Result<Content, Unusable> {
    if !matches!(map.get(prompt), Some(Value::Array(_))) {
        return Ok(Content::Completion {
            prompt: required(map, prompt)?,
            completion: answer(map, completion)?,
        });
    }
    // Both may be lists of messages.
    let mut messages = turns(&map[prompt], prompt)?;
    messages.extend(match &map[completion] {
        Value::String(text) => vec![(Role::Assistant, text.clone())],
        list => turns(list, completion)?,
    });
    conversation(messages)
}

fn chat(map: &Map<String, Value>, key: &str) -> Result<Content, Unusable> {
    let mut messages = turns(&map[key], key)?;
    let system = optional(map, "system")?;
    if !system.trim().is_empty() && messages.first().is_none_or(|(r, _)| *r != Role::System) {
        messages.insert(0, (Role::System, system));
    }
    conversation(messages)
}

fn turns(value: &Value, key: &str) -> Result<Vec<(Role, String)>, String> {
    // A cell of a table holds the list as text.
    let from_text;
    let value = match value {
        Value::String(text) => {
            from_text = serde_json::from_str(text)
                .map_err(|_| format!("`{key}` is a text, not a list of messages"))?;
            &from_text
        }
        value => value,
    };
    let Value::Array(list) = value else {
        return Err(format!(
            "`{key}` is {}, not a list of messages",
            kind(value)
        ));
    };
    if list.is_empty() {
        return Err(format!("`{key}` is empty"));
    }
    list.iter()
        .enumerate()
        .map(|(i, turn)| message(turn).map_err(|reason| format!("message {}: {reason}", i + 1)))
        .collect()
}

fn message(turn: &Value) -> Result<(Role, String), String> {
    let Value::Object(turn) = turn else {
        return Err(format!("it is {}, not an object", kind(turn)));
    };
    let (Some(role), Some(content)) = (
        one_of(turn, &["role", "from"]),
        one_of(turn, &["content", "value"]),
    ) else {
        let keys: Vec<String> = turn.keys().map(|k| format!("`{k}`")).collect();
        return Err(format!(
            "it has {}, not `role` and `content` (or `from` and `value`)",
            if keys.is_empty() {
                "no keys".into()
            } else {
                keys.join(", ")
            }
        ));
    };
    let name = turn[role]
        .as_str()
        .ok_or_else(|| format!("`{role}` is {}, not a text", kind(&turn[role])))?;
    let role = match name {
        "system" | "developer" => Role::System,
        "user" | "human" => Role::User,
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" => Role::Assistant,
        "tool" | "function" | "function_call" | "observation" | "ipython" => {
            return Err(format!("the role `{name}` (tools) is not supported"));
        }
        other => {
            return Err(format!(
                "the role `{other}` is none of `system`, `user`, `assistant`"
            ));
        }
    };
    if turn.get("tool_calls").is_some_and(|c| !c.is_null()) {
        return Err("tool calls are not supported".into());
    }
    Ok((role, text(&turn[content], content)?))
}

/// A message's text: a string, or a list of parts that are all text.
fn text(value: &Value, key: &str) -> Result<String, String> {
    match value {
        Value::String(s) => Ok(s.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| {
                let text = part.as_str().or_else(|| part.get("text")?.as_str());
                text.ok_or_else(|| format!("`{key}` has a part that is not text"))
            })
            .collect(),
        other => Err(format!("`{key}` is {}, not a text", kind(other))),
    }
}

/// Checks that the roles can be answered in turn.
fn conversation(turns: Vec<(Role, String)>) -> Result<Content, Unusable> {
    let mut before: Option<Role> = None;
    let mut messages = Vec::new();
    for (i, (role, content)) in turns.into_iter().enumerate() {
        let number = i + 1;
        let name = role.as_str();
        if role == Role::System {
            if i > 0 {
                return Err(format!(
                    "message {number} is from `system`, which may come first only"
                )
                .into());
            }
            // An empty one says nothing; templates would put their own instead.
            if content.trim().is_empty() {
                continue;
            }
        } else {
            if content.trim().is_empty() {
                let kind = match role {
                    Role::Assistant => BadKind::Empty,
                    _ => BadKind::Malformed,
                };
                let reason = format!("message {number} (`{name}`) is empty");
                return Err(Unusable::new(kind, reason));
            }
            if before == Some(role) {
                return Err(format!(
                    "messages {i} and {number} are both from `{name}`: user and assistant must \
                     take turns"
                )
                .into());
            }
            if role == Role::Assistant && before != Some(Role::User) {
                let reason = "the first message is from `assistant`: a user must begin";
                return Err(reason.to_owned().into());
            }
        }
        before = Some(role);
        messages.push(Message { role, content });
    }
    if messages.iter().all(|m| m.role != Role::Assistant) {
        let reason = "it has no assistant message, so there is nothing to learn";
        return Err(Unusable::new(BadKind::Empty, reason));
    }
    Ok(Content::Chat(messages))
}
