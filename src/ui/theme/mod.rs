//! How the deck looks: roles that name meanings, themes that give them styles, and the characters
//! that lines and marks are drawn with.

mod capabilities;
mod catalogue;
mod color;
mod file;
mod glyphs;

use std::ops::Index;
use std::path::Path;

use ratatui::style::{Color, Modifier, Style};

pub use capabilities::{Capabilities, ColorDepth};
pub use catalogue::Catalogue;
pub use file::ThemeFile;
pub use glyphs::Glyphs;

use crate::protocol::{Level, PhaseName};

/// What a piece of the screen means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Background,
    Text,
    /// Labels, units, what matters less.
    Muted,
    /// Grids, empty parts of bars, what is there but should not be seen first.
    Faint,
    Title,
    Accent,
    Good,
    Warning,
    Error,
    /// Rule above a pane, and above the one with the focus.
    Rule,
    Focus,
    Selection,
    /// Keys in hints and in the help.
    Key,
    ChartRaw,
    ChartEma,
    ChartEval,
    /// Held-out loss of the bare base.
    ChartBase,
    ChartRate,
    Crosshair,
    /// Parts of a bar: this run's, everything else's, what is left.
    BarRun,
    BarOther,
    BarFree,
    Progress,
    /// Tokens the loss does not count, and those it does.
    Masked,
    Trained,
}

/// Every role with its key in theme files, in the order of the enum.
pub const ROLES: [(Role, &str); 25] = [
    (Role::Background, "background"),
    (Role::Text, "text"),
    (Role::Muted, "muted"),
    (Role::Faint, "faint"),
    (Role::Title, "title"),
    (Role::Accent, "accent"),
    (Role::Good, "good"),
    (Role::Warning, "warning"),
    (Role::Error, "error"),
    (Role::Rule, "rule"),
    (Role::Focus, "focus"),
    (Role::Selection, "selection"),
    (Role::Key, "key"),
    (Role::ChartRaw, "chart_raw"),
    (Role::ChartEma, "chart_ema"),
    (Role::ChartEval, "chart_eval"),
    (Role::ChartBase, "chart_base"),
    (Role::ChartRate, "chart_rate"),
    (Role::Crosshair, "crosshair"),
    (Role::BarRun, "bar_run"),
    (Role::BarOther, "bar_other"),
    (Role::BarFree, "bar_free"),
    (Role::Progress, "progress"),
    (Role::Masked, "masked"),
    (Role::Trained, "trained"),
];

/// Themes compiled in, the default first.
const BUILTIN: [(&str, &str); 3] = [
    ("dark", include_str!("../../../themes/dark.yaml")),
    ("light", include_str!("../../../themes/light.yaml")),
    (
        "high-contrast",
        include_str!("../../../themes/high-contrast.yaml"),
    ),
];

fn builtin(name: &str) -> Option<ThemeFile> {
    let (name, text) = BUILTIN.iter().find(|(n, _)| *n == name)?;
    ThemeFile::parse(Path::new(&format!("themes/{name}.yaml")), name, text).ok()
}

/// A theme as this terminal can show it.
#[derive(Clone, Debug)]
pub struct Theme {
    pub name: String,
    pub glyphs: &'static Glyphs,
    styles: [Style; ROLES.len()],
}

impl Theme {
    pub fn new(file: &ThemeFile, capabilities: Capabilities) -> Theme {
        let styles = ROLES.map(|(role, _)| {
            let mut style = file.style(role);
            if capabilities.depth == ColorDepth::None {
                let modifiers = style.add_modifier | without_colour(role);
                return Style::new().add_modifier(modifiers);
            }
            style.fg = style.fg.map(|c| color::quantise(c, capabilities.depth));
            style.bg = style.bg.map(|c| color::quantise(c, capabilities.depth));
            style
        });
        Theme {
            name: file.name.clone(),
            glyphs: if capabilities.unicode {
                &glyphs::UNICODE
            } else {
                &glyphs::ASCII
            },
            styles,
        }
    }

    pub fn phase(&self, phase: PhaseName) -> (Role, &'static str) {
        let g = self.glyphs;
        match phase {
            PhaseName::Loading => (Role::Accent, g.phase_waiting),
            PhaseName::Training => (Role::Good, g.phase_running),
            PhaseName::Pausing => (Role::Warning, g.phase_waiting),
            PhaseName::Paused => (Role::Warning, g.phase_paused),
            PhaseName::Evaluating | PhaseName::Sampling | PhaseName::Saving => {
                (Role::Accent, g.phase_running)
            }
            PhaseName::Done => (Role::Good, g.phase_done),
            PhaseName::Failed => (Role::Error, g.phase_failed),
            PhaseName::Stopped => (Role::Warning, g.phase_stopped),
        }
    }

    pub fn level(&self, level: Level) -> Role {
        match level {
            Level::Info => Role::Text,
            Level::Warning => Role::Warning,
            Level::Error => Role::Error,
        }
    }

    /// Whether the theme paints its own background.
    pub fn background(&self) -> Option<Color> {
        self[Role::Background].bg
    }
}

impl Index<Role> for Theme {
    type Output = Style;

    fn index(&self, role: Role) -> &Style {
        &self.styles[role as usize]
    }
}

/// What tells roles apart where there is no colour.
fn without_colour(role: Role) -> Modifier {
    match role {
        Role::Muted | Role::Faint | Role::Rule | Role::ChartRaw | Role::BarFree | Role::Masked => {
            Modifier::DIM
        }
        Role::Title
        | Role::Accent
        | Role::Warning
        | Role::Focus
        | Role::Key
        | Role::ChartEma
        | Role::Trained => Modifier::BOLD,
        Role::Error | Role::Selection => Modifier::BOLD.union(Modifier::REVERSED),
        _ => Modifier::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_stand_in_the_order_of_the_enum() {
        for (i, (role, _)) in ROLES.iter().enumerate() {
            assert_eq!(*role as usize, i);
        }
    }

    #[test]
    fn built_in_themes_are_valid_and_name_every_role() {
        for (name, text) in BUILTIN {
            ThemeFile::parse(Path::new(name), name, text).unwrap();
            for (_, role) in ROLES {
                assert!(
                    text.lines().any(|l| l.starts_with(&format!("{role}:"))),
                    "{name} lacks {role}"
                );
            }
        }
    }

    #[test]
    fn no_color_leaves_modifiers_only() {
        let capabilities = Capabilities {
            depth: ColorDepth::None,
            unicode: true,
        };
        for (name, _) in BUILTIN {
            let theme = Theme::new(&builtin(name).unwrap(), capabilities);
            for (role, _) in ROLES {
                assert_eq!((theme[role].fg, theme[role].bg), (None, None));
            }
            assert!(
                theme[Role::Selection]
                    .add_modifier
                    .contains(Modifier::REVERSED)
            );
        }
    }
}
