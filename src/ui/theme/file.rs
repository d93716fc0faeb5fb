//! Theme files: flat YAML, one line a role.

use std::path::{Path, PathBuf};

use ratatui::style::Style;
use serde_yaml::{Mapping, Value};

use super::color::parse_style;
use super::{ROLES, Role, Styles, builtin};

/// A theme as written, in all its colours.
#[derive(Clone, Debug, PartialEq)]
pub struct ThemeFile {
    pub name: String,
    path: PathBuf,
    inherits: Option<String>,
    styles: [Option<Written>; ROLES.len()],
}

/// A role's style as written: perhaps built upon another role's.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Written {
    from: Option<Role>,
    style: Style,
    line: usize,
}

impl ThemeFile {
    /// Reads a theme; `name` is the file's stem.
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
        let inherits = match mapping.get("inherits") {
            None => None,
            Some(Value::String(parent)) => Some(parent.clone()),
            Some(_) => return Err(format!("{}: name a theme", at("inherits"))),
        };
        let mut styles = [None; ROLES.len()];
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
            let (from, style) = parse_style(&style).map_err(|why| format!("{}: {why}", at(key)))?;
            styles[index] = Some(Written {
                from,
                style,
                line: line_of(text, key).unwrap_or(0),
            });
        }
        Ok(ThemeFile {
            name: name.to_owned(),
            path: path.to_owned(),
            inherits,
            styles,
        })
    }

    fn at(&self, role: Role) -> String {
        let line = self.styles[role as usize].map_or(0, |w| w.line);
        format!(
            "{}, line {line}, `{}`",
            self.path.display(),
            ROLES[role as usize].1
        )
    }
}

/// A style for every role. Roles left out are taken from the theme that `inherits` names: one of
/// `others`, or a built-in one; without it, `dark`. A theme that inherits its own name means the
/// built-in one.
///
/// # Errors
/// One sentence: no such theme, or themes or roles that go round in a circle.
pub fn resolve(theme: &ThemeFile, others: &[ThemeFile]) -> Result<Styles, String> {
    let mut chain = vec![theme.clone()];
    while let Some(parent) = parent(&chain, others)? {
        chain.push(parent);
    }
    let mut written: [Option<(usize, Written)>; ROLES.len()] = [None; ROLES.len()];
    for (i, file) in chain.iter().enumerate() {
        for (style, slot) in file.styles.iter().zip(&mut written) {
            *slot = slot.or(style.map(|s| (i, s)));
        }
    }
    let mut styles = [Style::new(); ROLES.len()];
    for (role, _) in ROLES {
        let mut path = vec![role];
        let mut style = Style::new();
        // From the role itself down to the one that names a colour.
        while let Some((_, found)) = path.last().and_then(|r| written[*r as usize]) {
            style = found.style.patch(style);
            let Some(from) = found.from else { break };
            if path.contains(&from) {
                let file = &chain[written[role as usize].map_or(0, |(i, _)| i)];
                let names: Vec<&str> = path
                    .iter()
                    .chain([&from])
                    .map(|r| ROLES[*r as usize].1)
                    .collect();
                return Err(format!(
                    "{}: {} goes round in a circle: give one of them a colour",
                    file.at(role),
                    names.join(" -> ")
                ));
            }
            path.push(from);
        }
        styles[role as usize] = style;
    }
    Ok(styles)
}

/// What the last theme of a chain inherits; `None` at the end.
fn parent(chain: &[ThemeFile], others: &[ThemeFile]) -> Result<Option<ThemeFile>, String> {
    let Some(child) = chain.last() else {
        return Ok(None);
    };
    let own = builtin(&child.name).filter(|b| b.styles == child.styles);
    let Some(name) = &child.inherits else {
        // The end of every chain, which names every role.
        let end = own.is_some() || child.name == "dark" && chain.len() > 1;
        return Ok(builtin("dark").filter(|_| !end));
    };
    let at = format!("{}, `inherits`", child.path.display());
    if *name == child.name {
        return builtin(name)
            .map(Some)
            .ok_or_else(|| format!("{at}: \"{name}\" is this theme itself"));
    }
    if chain.iter().any(|t| t.name == *name) {
        let names: Vec<&str> = chain.iter().map(|t| t.name.as_str()).collect();
        return Err(format!(
            "{at}: {} -> {name} goes round in a circle",
            names.join(" -> ")
        ));
    }
    others
        .iter()
        .find(|t| t.name == *name)
        .cloned()
        .or_else(|| builtin(name))
        .map(Some)
        .ok_or_else(|| format!("{at}: no theme is called \"{name}\""))
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
    use ratatui::style::{Color, Modifier};

    fn parse(text: &str) -> Result<ThemeFile, String> {
        ThemeFile::parse(Path::new("themes/mine.yaml"), "mine", text)
    }

    #[test]
    fn roles_that_are_not_named_come_from_the_inherited_theme() {
        let mine = parse("inherits: light\naccent: \"#010203\"\n").unwrap();
        let light = resolve(&builtin("light").unwrap(), &[]).unwrap();
        let mine = resolve(&mine, &[]).unwrap();
        let accent = Style::new().fg(Color::Rgb(1, 2, 3));
        assert_eq!(mine[Role::Accent as usize], accent);
        assert_eq!(mine[Role::Text as usize], light[Role::Text as usize]);
    }

    #[test]
    fn a_role_takes_over_another_s_style_as_the_heir_has_it() {
        let sea = ThemeFile::parse(
            Path::new("themes/sea.yaml"),
            "sea",
            "accent: cyan\nkey: accent bold\nfocus: key on black\n",
        )
        .unwrap();
        let mine = parse("inherits: sea\naccent: red\n").unwrap();
        let styles = resolve(&mine, &[sea]).unwrap();
        let focus = styles[Role::Focus as usize];
        assert_eq!((focus.fg, focus.bg), (Some(Color::Red), Some(Color::Black)));
        assert!(focus.add_modifier.contains(Modifier::BOLD));
    }

    #[test]
    fn circles_of_themes_and_of_roles_are_refused() {
        let a = ThemeFile::parse(Path::new("a.yaml"), "a", "inherits: b\n").unwrap();
        let b = ThemeFile::parse(Path::new("b.yaml"), "b", "inherits: a\n").unwrap();
        assert_eq!(
            resolve(&a, &[a.clone(), b]).unwrap_err(),
            "b.yaml, `inherits`: a -> b -> a goes round in a circle"
        );
        let mine = parse("text: white\nkey: focus\nfocus: accent\naccent: key bold\n").unwrap();
        assert_eq!(
            resolve(&mine, &[]).unwrap_err(),
            "themes/mine.yaml, line 4, `accent`: accent -> key -> focus -> accent goes round in a \
             circle: give one of them a colour"
        );
        // A file that changes the built-in theme of its name is no circle.
        let dark = ThemeFile::parse(Path::new("dark.yaml"), "dark", "inherits: dark\nkey: red\n");
        let styles = resolve(&dark.unwrap(), &[]).unwrap();
        assert_eq!(styles[Role::Key as usize].fg, Some(Color::Red));
        assert!(styles[Role::Text as usize].fg.is_some());
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
                "- a\n",
                "themes/mine.yaml, line 1, column 1: not a YAML mapping of roles to styles, such as `accent: \"#7aa2f7 bold\"`",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
    }
}
