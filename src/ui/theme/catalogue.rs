//! The themes there are: files beside the working directory or in the config folder, and the
//! built-in ones; a file wins over a built-in theme of its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::{BUILTIN, Capabilities, Styles, Theme, ThemeFile, builtin, resolve};

/// Themes to choose from.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue {
    capabilities: Capabilities,
    themes: Vec<(String, Styles)>,
    chosen: usize,
    /// Sentences about files that are not themes, for the user to see.
    pub problems: Vec<String>,
}

impl Catalogue {
    /// The built-in themes alone.
    pub fn built_in(capabilities: Capabilities) -> Catalogue {
        Self::open(capabilities, &[], None)
    }

    /// Built-in themes and the files of `folders` (an earlier folder wins), with `wanted` (a name
    /// or a file) chosen. What cannot be read becomes a problem, and the default stays.
    pub fn open(capabilities: Capabilities, folders: &[PathBuf], wanted: Option<&str>) -> Self {
        let mut problems = Vec::new();
        let mut files: Vec<ThemeFile> = BUILTIN.iter().filter_map(|(n, _)| builtin(n)).collect();
        let file = wanted.filter(|w| is_path(w)).map(PathBuf::from);
        let found = folders.iter().rev().flat_map(|f| yaml_files(f));
        let mut wanted_name = wanted.map(str::to_owned);
        for path in found.chain(file.clone()) {
            match read(&path) {
                Ok(theme) => {
                    if file.as_ref() == Some(&path) {
                        wanted_name = Some(theme.name.clone());
                    }
                    match files.iter_mut().find(|t| t.name == theme.name) {
                        Some(known) => *known = theme,
                        None => files.push(theme),
                    }
                }
                Err(problem) => {
                    if file.as_ref() == Some(&path) {
                        wanted_name = None;
                    }
                    problems.push(problem);
                }
            }
        }
        let mut themes = Vec::new();
        for file in &files {
            let own = builtin(&file.name);
            let styles = resolve(file, &files).or_else(|problem| {
                problems.push(problem);
                own.map_or(Err(()), |own| resolve(&own, &[]).map_err(drop))
            });
            if let Ok(styles) = styles {
                themes.push((file.name.clone(), styles));
            }
        }
        let mut catalogue = Catalogue {
            capabilities,
            themes,
            chosen: 0,
            problems,
        };
        if let Some(name) = wanted_name
            && !catalogue.choose(&name)
            && file.is_none()
        {
            catalogue.problems.push(format!(
                "no theme is called \"{name}\"; there are {}, or name a YAML file",
                catalogue.names().join(", ")
            ));
        }
        catalogue
    }

    /// Chooses a theme by its name; false when there is none.
    pub fn choose(&mut self, name: &str) -> bool {
        let found = self.themes.iter().position(|t| t.0 == name);
        self.chosen = found.unwrap_or(self.chosen);
        found.is_some()
    }

    pub fn names(&self) -> Vec<&str> {
        self.themes.iter().map(|t| t.0.as_str()).collect()
    }

    /// Which of [`Self::names`] is chosen.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// Chooses one of [`Self::names`].
    pub fn choose_index(&mut self, index: usize) {
        self.chosen = index.min(self.themes.len().saturating_sub(1));
    }

    /// The chosen theme, as this terminal can show it.
    pub fn theme(&self) -> Theme {
        let (name, styles) = &self.themes[self.chosen];
        Theme::new(name, styles, self.capabilities)
    }
}

/// What tells that one of the files has changed: every theme's file with its size and age.
pub fn fingerprint(
    folders: &[PathBuf],
    wanted: Option<&str>,
) -> Vec<(PathBuf, Option<(u64, SystemTime)>)> {
    folders
        .iter()
        .flat_map(|f| yaml_files(f))
        .chain(wanted.filter(|w| is_path(w)).map(PathBuf::from))
        .map(|path| {
            let seen = fs::metadata(&path)
                .ok()
                .and_then(|m| Some((m.len(), m.modified().ok()?)));
            (path, seen)
        })
        .collect()
}

fn is_path(wanted: &str) -> bool {
    wanted.contains('/') || wanted.ends_with(".yaml") || wanted.ends_with(".yml")
}

fn read(path: &Path) -> Result<ThemeFile, String> {
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    fs::read_to_string(path)
        .map_err(|e| format!("cannot read the theme {}: {e}", path.display()))
        .and_then(|text| ThemeFile::parse(path, &name, &text))
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "yaml" || e == "yml"))
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::theme::{ColorDepth, Role};
    use ratatui::style::Color;

    const CAPABILITIES: Capabilities = Capabilities {
        depth: ColorDepth::True,
        unicode: true,
    };

    #[test]
    fn a_file_wins_over_the_built_in_theme_and_the_nearer_folder_over_the_other() {
        let near = tempfile::tempdir().unwrap();
        let far = tempfile::tempdir().unwrap();
        fs::write(near.path().join("light.yaml"), "accent: red\n").unwrap();
        fs::write(far.path().join("light.yaml"), "accent: blue\n").unwrap();
        fs::write(far.path().join("sea.yaml"), "accent: cyan\n").unwrap();
        let folders = [near.path().to_owned(), far.path().to_owned()];
        let light = Catalogue::open(CAPABILITIES, &folders, Some("light"));
        assert_eq!(light.theme()[Role::Accent].fg, Some(Color::Red));
        assert_eq!(light.names()[..2], ["dark", "light"]);
        assert_eq!(light.names().last(), Some(&"sea"));
        assert!(light.problems.is_empty());
    }

    #[test]
    fn a_bad_theme_is_told_and_the_default_used() {
        let folder = tempfile::tempdir().unwrap();
        let bad = folder.path().join("bad.yaml");
        fs::write(&bad, "accent: nocolour\n").unwrap();
        let named = Catalogue::open(CAPABILITIES, &[], Some(bad.to_str().unwrap()));
        assert_eq!(named.theme().name, "dark");
        assert!(named.problems[0].contains("line 1, `accent`"));
        let unknown = Catalogue::open(CAPABILITIES, &[], Some("drak"));
        assert_eq!(unknown.theme().name, "dark");
        assert!(
            unknown.problems[0].contains("dark, light, high-contrast, colour-blind, solarized")
        );
    }
}
