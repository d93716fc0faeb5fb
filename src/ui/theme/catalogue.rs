//! The themes there are: files beside the working directory or in the config folder, and the
//! built-in ones; a file wins over a built-in theme of its name.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BUILTIN, Capabilities, Theme, ThemeFile, builtin};

/// Themes to cycle through.
#[derive(Clone, Debug)]
pub struct Catalogue {
    capabilities: Capabilities,
    themes: Vec<ThemeFile>,
    chosen: usize,
    /// Sentences about files that are not themes, for the user to see.
    pub problems: Vec<String>,
}

impl Catalogue {
    /// The built-in themes alone.
    pub fn built_in(capabilities: Capabilities) -> Catalogue {
        Catalogue {
            capabilities,
            themes: BUILTIN
                .iter()
                .filter_map(|(name, _)| builtin(name))
                .collect(),
            chosen: 0,
            problems: Vec::new(),
        }
    }

    /// Built-in themes and the files of `folders` (an earlier folder wins), with `wanted` (a name
    /// or a file) chosen. What cannot be read becomes a problem, and the default stays.
    pub fn open(capabilities: Capabilities, folders: &[PathBuf], wanted: Option<&str>) -> Self {
        let mut catalogue = Self::built_in(capabilities);
        for folder in folders.iter().rev() {
            for path in yaml_files(folder) {
                catalogue.add(&path);
            }
        }
        if let Some(wanted) = wanted {
            catalogue.choose(wanted);
        }
        catalogue
    }

    fn add(&mut self, path: &Path) -> Option<usize> {
        let name = path.file_stem()?.to_string_lossy().into_owned();
        let read = fs::read_to_string(path)
            .map_err(|e| format!("cannot read the theme {}: {e}", path.display()))
            .and_then(|text| ThemeFile::parse(path, &name, &text));
        match read {
            Ok(theme) => Some(match self.themes.iter().position(|t| t.name == name) {
                Some(at) => {
                    self.themes[at] = theme;
                    at
                }
                None => {
                    self.themes.push(theme);
                    self.themes.len() - 1
                }
            }),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    fn choose(&mut self, wanted: &str) {
        if let Some(at) = self.themes.iter().position(|t| t.name == wanted) {
            self.chosen = at;
        } else if wanted.contains('/') || wanted.ends_with(".yaml") || wanted.ends_with(".yml") {
            if let Some(at) = self.add(Path::new(wanted)) {
                self.chosen = at;
            }
        } else {
            self.problems.push(format!(
                "no theme is called \"{wanted}\"; there are {}, or name a YAML file",
                self.names().join(", ")
            ));
        }
    }

    pub fn names(&self) -> Vec<&str> {
        self.themes.iter().map(|t| t.name.as_str()).collect()
    }

    /// Chooses the next theme.
    pub fn next(&mut self) {
        self.chosen = (self.chosen + 1) % self.themes.len();
    }

    /// The chosen theme, as this terminal can show it.
    pub fn theme(&self) -> Theme {
        Theme::new(&self.themes[self.chosen], self.capabilities)
    }
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
        assert_eq!(light.names(), ["dark", "light", "high-contrast", "sea"]);
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
        assert!(unknown.problems[0].contains("dark, light, high-contrast"));
    }
}
