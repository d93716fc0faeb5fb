//! Every text of the interface, in English and Simplified Chinese: one table, cut into files by
//! topic.
//!
//! A text is a method of [`Lang`], and a line of the table holds both languages, so that a missing
//! translation does not compile:
//!
//! ```text
//! words! { no_step: "no step yet", "尚无步数"; }
//! sentences! { step_of(step, total): "step {step} / {total}", "第 {step} / {total} 步"; }
//! ```
//!
//! A new file of texts is a module here, and its `WORDS` and `SENTENCES` join the tests' `rows`.
//!
//! What a run, a model, a file or the operating system says is shown as it is.

/// A language of the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lang {
    #[default]
    English,
    /// Simplified Chinese.
    Chinese,
}

/// Texts without a variable part: `name: "English", "中文";` becomes `fn name(self) -> &'static str`.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident: $english:literal, $chinese:literal;)*) => {
        impl $crate::ui::lang::Lang {
            $($(#[$doc])* pub fn $name(self) -> &'static str {
                match self {
                    $crate::ui::lang::Lang::English => $english,
                    $crate::ui::lang::Lang::Chinese => $chinese,
                }
            })*
        }

        #[cfg(test)]
        pub(super) const WORDS: &[(&str, &str, &str)] =
            &[$((stringify!($name), $english, $chinese)),*];
    };
}

/// Texts with variable parts, named in braces: they become functions from anything that can be
/// displayed to a `String`.
macro_rules! sentences {
    ($($(#[$doc:meta])* $name:ident($($part:ident),+): $english:literal, $chinese:literal;)*) => {
        impl $crate::ui::lang::Lang {
            $($(#[$doc])* pub fn $name(self, $($part: impl std::fmt::Display),+) -> String {
                match self {
                    $crate::ui::lang::Lang::English => format!($english),
                    $crate::ui::lang::Lang::Chinese => format!($chinese),
                }
            })*
        }

        #[cfg(test)]
        pub(super) const SENTENCES: &[(&str, &str, &str)] =
            &[$((stringify!($name), $english, $chinese)),*];
    };
}

// After the macros, which they use.
mod data;
mod deck;
mod dialogs;
mod home;
mod keys;
mod log;
mod panes;

impl Lang {
    /// From a name as given to `--lang`: `en`, `zh`, also with a region (`zh_CN`, `zh-Hans`).
    pub fn named(name: &str) -> Option<Lang> {
        let name = name.to_lowercase();
        match name.split(['_', '-', '.']).next()? {
            "en" | "english" => Some(Lang::English),
            "zh" | "chinese" | "中文" => Some(Lang::Chinese),
            _ => None,
        }
    }

    /// From any environment, as `setlocale` reads it for messages: Chinese for a `zh` locale that
    /// can show it, else English.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Lang {
        let locale = ["LC_ALL", "LC_MESSAGES", "LANG"]
            .into_iter()
            .find_map(|name| variable(name).filter(|v| !v.is_empty()))
            .unwrap_or_default()
            .to_lowercase();
        let utf8 = locale.contains("utf-8") || locale.contains("utf8");
        if locale.starts_with("zh") && utf8 {
            Lang::Chinese
        } else {
            Lang::English
        }
    }

    /// The language asked for, else that of this process's environment.
    pub fn detect(asked: Option<&str>) -> Lang {
        asked
            .and_then(Lang::named)
            .unwrap_or_else(|| Lang::from_environment(|name| std::env::var(name).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (&'static str, &'static str, &'static str);

    fn rows() -> Vec<Row> {
        [
            data::WORDS,
            data::SENTENCES,
            deck::WORDS,
            deck::SENTENCES,
            dialogs::WORDS,
            dialogs::SENTENCES,
            home::WORDS,
            home::SENTENCES,
            keys::WORDS,
            panes::WORDS,
            panes::SENTENCES,
        ]
        .concat()
    }

    #[test]
    fn the_language_is_the_locale_s_for_messages() {
        let from = |variables: &[(&str, &str)]| {
            Lang::from_environment(|name| {
                variables
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).to_owned())
            })
        };
        assert_eq!(from(&[("LANG", "zh_CN.UTF-8")]), Lang::Chinese);
        assert_eq!(
            from(&[("LC_ALL", ""), ("LC_MESSAGES", "zh_SG.utf8")]),
            Lang::Chinese
        );
        assert_eq!(
            from(&[("LC_ALL", "en_US.UTF-8"), ("LANG", "zh_CN.UTF-8")]),
            Lang::English
        );
        // GBK: the terminal could not show what the deck writes.
        assert_eq!(from(&[("LANG", "zh_CN.GBK")]), Lang::English);
        assert_eq!(from(&[]), Lang::English);
        assert_eq!(Lang::named("zh-Hans"), Some(Lang::Chinese));
        assert_eq!(Lang::named("en_GB.UTF-8"), Some(Lang::English));
        assert_eq!(Lang::named("fr"), None);
    }

    #[test]
    fn no_text_is_empty_in_one_language_only_and_english_is_ascii() {
        for (name, english, chinese) in rows() {
            assert!(english.is_ascii(), "{name}: {english:?}");
            assert_eq!(english.is_empty(), chinese.is_empty(), "{name}");
        }
    }

    #[test]
    fn both_languages_have_the_same_variable_parts() {
        let parts = |text: &str| {
            let mut parts: Vec<String> = text
                .split('{')
                .skip(1)
                .filter_map(|rest| rest.split(['}', ':']).next().map(str::to_owned))
                .collect();
            parts.sort();
            parts.dedup();
            parts
        };
        for (name, english, chinese) in rows() {
            assert_eq!(parts(english), parts(chinese), "{name}");
        }
    }

    #[test]
    fn every_text_is_used() {
        let mut code = String::new();
        let mut folders = vec![std::path::PathBuf::from("src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    code += &std::fs::read_to_string(path).unwrap_or_default();
                }
            }
        }
        let unused: Vec<_> = rows()
            .into_iter()
            .map(|(name, ..)| name)
            .filter(|name| {
                !code.contains(&format!(".{name}(")) && !code.contains(&format!("Lang::{name}"))
            })
            .collect();
        assert!(unused.is_empty(), "{unused:?}");
    }
}
