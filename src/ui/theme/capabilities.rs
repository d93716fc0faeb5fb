//! What the terminal can show, told by its environment alone: it is never asked.

/// How many colours the terminal has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColorDepth {
    /// Bold, dim and reverse only (`NO_COLOR`).
    None,
    /// The sixteen of ANSI.
    Ansi,
    /// xterm's 256.
    Indexed,
    True,
}

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    pub depth: ColorDepth,
    /// Whether anything but ASCII can be shown.
    pub unicode: bool,
}

impl Capabilities {
    /// From this process's environment.
    pub fn detect() -> Self {
        Self::from_environment(|name| std::env::var(name).ok())
    }

    /// From any environment; an empty variable counts as unset.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name| variable(name).filter(|v| !v.is_empty());
        let term = variable("TERM").unwrap_or_default();
        let colorterm = variable("COLORTERM").unwrap_or_default();
        let depth = if variable("NO_COLOR").is_some() || term == "dumb" || term == "vt100" {
            ColorDepth::None
        } else if colorterm.contains("truecolor")
            || colorterm.contains("24bit")
            || term.ends_with("-direct")
        {
            ColorDepth::True
        } else if term.contains("256color")
            || ["tmux", "screen", "xterm-kitty", "alacritty", "foot"]
                .iter()
                .any(|t| term.starts_with(t))
        {
            ColorDepth::Indexed
        } else {
            ColorDepth::Ansi
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .find_map(variable)
            .unwrap_or_default()
            .to_lowercase();
        // The Linux console's font has no braille.
        let unicode = (locale.contains("utf-8") || locale.contains("utf8")) && term != "linux";
        Capabilities { depth, unicode }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Capabilities {
        Capabilities::from_environment(|name| {
            variables
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn colours_follow_colorterm_then_term_and_no_color_wins() {
        let depth = |v: &[(&str, &str)]| detect(v).depth;
        let true_color = ("COLORTERM", "truecolor");
        assert_eq!(depth(&[("TERM", "xterm"), true_color]), ColorDepth::True);
        assert_eq!(depth(&[("TERM", "xterm-256color")]), ColorDepth::Indexed);
        assert_eq!(depth(&[("TERM", "screen")]), ColorDepth::Indexed);
        assert_eq!(depth(&[("TERM", "linux")]), ColorDepth::Ansi);
        assert_eq!(depth(&[]), ColorDepth::Ansi);
        assert_eq!(depth(&[("NO_COLOR", "1"), true_color]), ColorDepth::None);
        assert_eq!(depth(&[("NO_COLOR", ""), true_color]), ColorDepth::True);
    }

    #[test]
    fn lc_all_wins_over_lang_in_telling_whether_the_locale_is_utf_8() {
        let unicode = |v: &[(&str, &str)]| detect(v).unicode;
        assert!(unicode(&[("LANG", "en_US.UTF-8")]));
        assert!(unicode(&[("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!unicode(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
        assert!(!unicode(&[]));
        assert!(!unicode(&[("LANG", "en_US.UTF-8"), ("TERM", "linux")]));
    }
}
