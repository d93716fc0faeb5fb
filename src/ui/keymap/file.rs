//! A person's own keys: a YAML file of actions and their keys.

use std::path::Path;

use crossterm::event::KeyCode;
use serde_yaml::{Mapping, Value};

use super::{Act, Key, Keymap, TABLE};

impl Keymap {
    /// The table's keys with those of a file, such as `checkpoint: F5` or `stop: [Q, Ctrl-x]`;
    /// `none` takes an action's keys away. A key that the file gives to an action is taken from
    /// every other. What is wrong is left out and told, a sentence each.
    pub fn parse(path: &Path, text: &str) -> (Keymap, Vec<String>) {
        let mut keymap = Keymap::default();
        let mut problems = Vec::new();
        let mapping: Mapping = match serde_yaml::from_str::<Value>(text) {
            Ok(Value::Mapping(mapping)) => mapping,
            Ok(Value::Null) => return (keymap, problems),
            _ => {
                problems.push(format!(
                    "{}: not a YAML mapping of actions to keys, such as `checkpoint: F5`",
                    path.display()
                ));
                return (keymap, problems);
            }
        };
        let mut given: Vec<(Act, Key)> = Vec::new();
        for (name, value) in &mapping {
            let name = name.as_str().unwrap_or_default();
            match action(name, value) {
                Ok((act, keys)) => {
                    for key in keys {
                        match given.iter().find(|(_, k)| *k == key) {
                            Some((other, _)) => problems.push(format!(
                                "{}: `{name}`: {} is given to {} already",
                                path.display(),
                                key.label(),
                                name_of(*other)
                            )),
                            None => given.push((act, key)),
                        }
                    }
                    keymap.set(act, Vec::new());
                }
                Err(why) => problems.push(format!("{}: `{name}`: {why}", path.display())),
            }
        }
        for (_, key) in &given {
            for keys in &mut keymap.keys {
                keys.retain(|k| k != key);
            }
        }
        for (act, key) in given {
            let mut keys = keymap.keys(act).to_vec();
            keys.push(key);
            keymap.set(act, keys);
        }
        (keymap, problems)
    }

    fn set(&mut self, act: Act, keys: Vec<Key>) {
        if let Some(at) = TABLE.iter().position(|b| b.act == act) {
            self.keys[at] = keys;
        }
    }
}

fn name_of(act: Act) -> &'static str {
    TABLE.iter().find(|b| b.act == act).map_or("", |b| b.name)
}

/// An action and its keys.
fn action(name: &str, value: &Value) -> Result<(Act, Vec<Key>), String> {
    let Some(binding) = TABLE.iter().find(|b| b.name == name) else {
        let near = TABLE
            .iter()
            .map(|b| (strsim::damerau_levenshtein(b.name, name), b.name))
            .min()
            .filter(|(distance, _)| *distance <= 3);
        return Err(match near {
            Some((_, near)) => format!("no such action; did you mean `{near}`?"),
            None => "no such action; the palette (`:`) lists them".into(),
        });
    };
    let written = match value {
        Value::Sequence(list) => list.iter().map(one).collect::<Result<Vec<_>, _>>()?,
        Value::Null => return Err("name a key, or `none`".into()),
        one_key => vec![one(one_key)?],
    };
    if written.iter().any(|w| w == "none") {
        return Ok((binding.act, Vec::new()));
    }
    let keys = written.iter().map(|w| key(w));
    Ok((binding.act, keys.collect::<Result<_, _>>()?))
}

fn one(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        // YAML reads y and n as text, but on, off, yes and no are no keys either.
        _ => Err("write keys as text, in quotes where YAML needs them".into()),
    }
}

/// Reads a key as the help writes it: `p`, `Ctrl-x`, `Space`, `Shift-Tab`, `F5`.
fn key(text: &str) -> Result<Key, String> {
    let mut chars = text.chars();
    if let (Some(c), None) = (chars.next(), chars.next()) {
        return Ok(Key::Char(c));
    }
    let lower = text.to_lowercase();
    if let Some(rest) = lower
        .strip_prefix("ctrl-")
        .or_else(|| lower.strip_prefix("c-"))
    {
        let mut chars = rest.chars();
        return match (chars.next(), chars.next()) {
            (Some('c'), None) => Err("Ctrl-C always leaves the deck".into()),
            (Some(c), None) if c.is_ascii_lowercase() => Ok(Key::Ctrl(c)),
            _ => Err(format!(
                "\"{text}\": Ctrl goes with a letter, such as Ctrl-x"
            )),
        };
    }
    let number = lower.strip_prefix('f').and_then(|n| n.parse::<u8>().ok());
    if let Some(n) = number.filter(|n| (1..=12).contains(n)) {
        return Ok(Key::Code(KeyCode::F(n)));
    }
    let code = match lower.as_str() {
        "space" => return Ok(Key::Char(' ')),
        "enter" | "return" => KeyCode::Enter,
        "esc" | "escape" => KeyCode::Esc,
        "tab" => KeyCode::Tab,
        "shift-tab" | "backtab" => KeyCode::BackTab,
        "backspace" => KeyCode::Backspace,
        "delete" => KeyCode::Delete,
        "insert" => KeyCode::Insert,
        "up" => KeyCode::Up,
        "down" => KeyCode::Down,
        "left" => KeyCode::Left,
        "right" => KeyCode::Right,
        "home" => KeyCode::Home,
        "end" => KeyCode::End,
        "pgup" | "pageup" => KeyCode::PageUp,
        "pgdn" | "pagedown" => KeyCode::PageDown,
        _ => {
            return Err(format!(
                "\"{text}\" is no key: write a character, Ctrl-x, F1 to F12, or a name such as Space, Tab, PgUp"
            ));
        }
    };
    Ok(Key::Code(code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::{KeyEvent, KeyModifiers};

    fn parse(text: &str) -> (Keymap, Vec<String>) {
        Keymap::parse(Path::new("keymap.yaml"), text)
    }

    #[test]
    fn every_key_of_the_table_is_read_as_the_help_writes_it() {
        for binding in TABLE {
            for k in binding.keys {
                if *k != Key::Ctrl('c') {
                    assert_eq!(key(&k.label()), Ok(*k), "{}", k.label());
                }
            }
        }
    }

    #[test]
    fn a_key_goes_to_the_action_that_the_file_names() {
        let (keymap, problems) = parse("checkpoint: [p, F5]\nmouse: none\nstop: Ctrl-x\n");
        assert_eq!(problems, [] as [String; 0]);
        let pressed = |code, modifiers| keymap.lookup(&KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        assert_eq!(pressed(KeyCode::Char('p'), none), Some(Act::Checkpoint));
        assert_eq!(pressed(KeyCode::F(5), none), Some(Act::Checkpoint));
        assert_eq!(pressed(KeyCode::Char('c'), none), None);
        assert_eq!(pressed(KeyCode::Char('m'), none), None);
        assert_eq!(
            pressed(KeyCode::Char('x'), KeyModifiers::CONTROL),
            Some(Act::Stop)
        );
        assert_eq!(keymap.label(Act::Pause), "", "its key was taken");
        assert_eq!(keymap.label(Act::Checkpoint), "p F5");
    }

    #[test]
    fn what_is_wrong_is_told_and_the_rest_taken() {
        let (keymap, problems) = parse(
            "chekpoint: x\nstop: Hyper-x\npause: z\nexport: z\nhelp: Ctrl-c\ntheme: true\neval: 5\n",
        );
        for (problem, part) in problems.iter().zip([
            "`chekpoint`: no such action; did you mean `checkpoint`?",
            "`stop`: \"Hyper-x\" is no key",
            "`export`: z is given to pause already",
            "`help`: Ctrl-C always leaves",
            "`theme`: write keys as text",
        ]) {
            assert!(problem.contains(part), "{problem}");
        }
        assert_eq!(problems.len(), 5);
        assert_eq!(keymap.label(Act::Pause), "z");
        assert_eq!(keymap.label(Act::Stop), "Q");
        assert_eq!(keymap.label(Act::Eval), "5");
        assert!(parse("- a").1[0].contains("not a YAML mapping"));
        assert_eq!(parse("").0, Keymap::default());
    }
}
