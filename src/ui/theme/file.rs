//! Theme files: flat YAML, one line a role.

use std::path::Path;

use ratatui::style::Style;
use serde_yaml::{Mapping, Value};

use super::color::parse_style;
use super::{ROLES, Role, builtin};

/// A theme as written, in all its colours.
#[derive(Clone, Debug, PartialEq)]
pub struct ThemeFile {
    pub name: String,
    pub(super) styles: [Style; ROLES.len()],
}

impl ThemeFile {
    /// Reads a theme; `name` is the file's stem. Roles left out are taken from the theme that
    /// `inherits` names (a built-in one; without it, `dark`).
    ///
    /// # Errors
    /// One sentence with file, line and key.
    pub fn parse(path: &Path, name: &str, text: &str) -> Result<ThemeFile, String> {
        let at = |key: &str| match line_of(text, key) {
            Some(line) => format!("{}, line {line}, `{key}`", path.display()),
            None => format!("{}, `{key}`", path.display()),
        };
        let mapping: Mapping = serde_yaml::from_str(text).map_err(|error| {
            let line = error.location().map_or(String::new(), |l| {
                format!(", line {}, column {}", l.line(), l.column())
            });
            format!(
                "{}{line}: not a YAML mapping of roles to styles, such as `accent: \"#7aa2f7 bold\"`",
                path.display()
            )
        })?;
        let mut styles = match mapping.get("inherits") {
            None => None,
            Some(Value::String(parent)) => Some(builtin(parent).ok_or_else(|| {
                format!(
                    "{}: no built-in theme is called \"{parent}\"",
                    at("inherits")
                )
            })?),
            Some(_) => return Err(format!("{}: name a built-in theme", at("inherits"))),
        }
        .or_else(|| (name != "dark").then(|| builtin("dark")).flatten())
        .map_or([Style::new(); ROLES.len()], |parent| parent.styles);

        for (key, value) in &mapping {
            let Some(key) = key.as_str() else {
                return Err(format!(
                    "{}: keys are names of roles, such as `accent`",
                    path.display()
                ));
            };
            if key == "inherits" {
                continue;
            }
            let Some(index) = ROLES.iter().position(|(_, n)| *n == key) else {
                return Err(format!("{}: no such role{}", at(key), near(key)));
            };
            let style = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Null => {
                    return Err(format!(
                        "{}: no style; a colour that begins with # must stand in quotes",
                        at(key)
                    ));
                }
                _ => return Err(format!("{}: write a style, such as \"cyan bold\"", at(key))),
            };
            styles[index] = parse_style(&style).map_err(|why| format!("{}: {why}", at(key)))?;
        }
        Ok(ThemeFile {
            name: name.to_owned(),
            styles,
        })
    }

    pub(super) fn style(&self, role: Role) -> Style {
        self.styles[role as usize]
    }
}

fn near(key: &str) -> String {
    ROLES
        .iter()
        .map(|(_, name)| (strsim::damerau_levenshtein(name, key), name))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map_or_else(
            || format!("; the roles are {}", ROLES.map(|(_, n)| n).join(", ")),
            |(_, name)| format!("; did you mean `{name}`?"),
        )
}

/// Keys are flat, so the line that begins with one is its line.
fn line_of(text: &str, key: &str) -> Option<usize> {
    text.lines()
        .position(|line| {
            line.trim_start()
                .trim_start_matches(['"', '\''])
                .strip_prefix(key)
                .is_some_and(|rest| {
                    rest.trim_start_matches(['"', '\''])
                        .trim_start()
                        .starts_with(':')
                })
        })
        .map(|i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::style::Color;

    fn parse(text: &str) -> Result<ThemeFile, String> {
        ThemeFile::parse(Path::new("themes/mine.yaml"), "mine", text)
    }

    #[test]
    fn roles_that_are_not_named_come_from_the_inherited_theme() {
        let mine = parse("inherits: light\naccent: \"#010203\"\n").unwrap();
        let light = builtin("light").unwrap();
        assert_eq!(
            mine.style(Role::Accent),
            Style::new().fg(Color::Rgb(1, 2, 3))
        );
        assert_eq!(mine.style(Role::Text), light.style(Role::Text));
    }

    #[test]
    fn a_bad_file_is_one_sentence_with_file_line_and_key() {
        for (text, expected) in [
            (
                "text: white\nacent: cyan\n",
                "themes/mine.yaml, line 2, `acent`: no such role; did you mean `accent`?",
            ),
            (
                "# mine\n\nerror: rde\n",
                "themes/mine.yaml, line 3, `error`: \"rde\" is not a colour: did you mean red?",
            ),
            (
                "accent: #7aa2f7\n",
                "themes/mine.yaml, line 1, `accent`: no style; a colour that begins with # must stand in quotes",
            ),
            (
                "inherits: drak\n",
                "themes/mine.yaml, line 1, `inherits`: no built-in theme is called \"drak\"",
            ),
            (
                "- a\n",
                "themes/mine.yaml, line 1, column 1: not a YAML mapping of roles to styles, such as `accent: \"#7aa2f7 bold\"`",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
    }
}
