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
pub use catalogue::{Catalogue, fingerprint};
pub use color::quantise;
pub use file::{ThemeFile, resolve};
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
    /// Words that one of two samples has alone.
    Added,
    Removed,
    /// Runs that are compared.
    Run1,
    Run2,
    Run3,
    Run4,
    Run5,
    Run6,
}

/// Every role with its key in theme files, in the order of the enum.
pub const ROLES: [(Role, &str); 33] = [
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
    (Role::Added, "added"),
    (Role::Removed, "removed"),
    (Role::Run1, "run_1"),
    (Role::Run2, "run_2"),
    (Role::Run3, "run_3"),
    (Role::Run4, "run_4"),
    (Role::Run5, "run_5"),
    (Role::Run6, "run_6"),
];

/// Themes compiled in, the default first.
const BUILTIN: [(&str, &str); 8] = [
    ("dark", include_str!("../../../themes/dark.yaml")),
    ("light", include_str!("../../../themes/light.yaml")),
    (
        "high-contrast",
        include_str!("../../../themes/high-contrast.yaml"),
    ),
    (
        "colour-blind",
        include_str!("../../../themes/colour-blind.yaml"),
    ),
    ("solarized", include_str!("../../../themes/solarized.yaml")),
    (
        "solarized-light",
        include_str!("../../../themes/solarized-light.yaml"),
    ),
    ("gruvbox", include_str!("../../../themes/gruvbox.yaml")),
    ("mono", include_str!("../../../themes/mono.yaml")),
];

fn builtin(name: &str) -> Option<ThemeFile> {
    let (name, text) = BUILTIN.iter().find(|(n, _)| *n == name)?;
    ThemeFile::parse(Path::new(&format!("themes/{name}.yaml")), name, text).ok()
}

/// A style for every role.
pub type Styles = [Style; ROLES.len()];

/// A theme as this terminal can show it.
#[derive(Clone, Debug)]
pub struct Theme {
    pub name: String,
    pub glyphs: &'static Glyphs,
    /// How many colours pictures may use.
    pub depth: ColorDepth,
    styles: Styles,
}

impl Theme {
    /// `styles` as a theme's files give them, in the order of [`ROLES`].
    pub fn new(name: &str, styles: &Styles, capabilities: Capabilities) -> Theme {
        let styles = ROLES.map(|(role, _)| {
            let mut style = styles[role as usize];
            if capabilities.depth == ColorDepth::None {
                let modifiers = style.add_modifier | without_colour(role);
                return Style::new().add_modifier(modifiers);
            }
            style.fg = style.fg.map(|c| color::quantise(c, capabilities.depth));
            style.bg = style.bg.map(|c| color::quantise(c, capabilities.depth));
            style
        });
        Theme {
            name: name.to_owned(),
            glyphs: if capabilities.unicode {
                &glyphs::UNICODE
            } else {
                &glyphs::ASCII
            },
            depth: capabilities.depth,
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

impl Theme {
    /// Whether runs in one chart can be told apart by their colours.
    pub fn tells_runs_apart(&self) -> bool {
        self[Role::Run1].fg != self[Role::Run2].fg
    }
}

/// What tells roles apart where there is no colour.
fn without_colour(role: Role) -> Modifier {
    match role {
        Role::Muted
        | Role::Faint
        | Role::Rule
        | Role::ChartRaw
        | Role::BarFree
        | Role::Masked
        | Role::Removed
        | Role::Run3 => Modifier::DIM,
        Role::Title
        | Role::Accent
        | Role::Warning
        | Role::Focus
        | Role::Key
        | Role::ChartEma
        | Role::Trained
        | Role::Run1
        | Role::Run4 => Modifier::BOLD,
        Role::Added => Modifier::UNDERLINED,
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

    fn styles(name: &str) -> Styles {
        resolve(&builtin(name).unwrap(), &[]).unwrap()
    }

    #[test]
    fn built_in_themes_are_valid_and_name_every_role() {
        for (name, text) in BUILTIN {
            let file = ThemeFile::parse(Path::new(name), name, text).unwrap();
            resolve(&file, &[]).unwrap();
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
            let theme = Theme::new(name, &styles(name), capabilities);
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

    #[test]
    fn text_can_be_read_on_its_background() {
        for (name, _) in BUILTIN.iter().filter(|(n, _)| *n != "mono") {
            let styles = styles(name);
            let background = match styles[Role::Background as usize].bg {
                Some(color) => color,
                None if *name == "light" => Color::White,
                None => Color::Black,
            };
            for (role, least) in [
                (Role::Text, 4.5),
                (Role::Title, 4.5),
                (Role::Good, 3.0),
                (Role::Warning, 3.0),
                (Role::Key, 3.0),
                (Role::Muted, 3.0),
                (Role::ChartEma, 3.0),
                (Role::ChartEval, 3.0),
            ] {
                let text = styles[role as usize].fg.unwrap();
                let ratio = color::contrast(text, background);
                assert!(ratio >= least, "{name}, {role:?}: {ratio:.2}");
            }
            for (role, least) in [(Role::Selection, 4.5), (Role::Error, 3.0)] {
                let style = styles[role as usize];
                let ratio = color::contrast(style.fg.unwrap(), style.bg.unwrap_or(background));
                assert!(ratio >= least, "{name}, {role:?}: {ratio:.2}");
            }
        }
    }

    #[test]
    fn the_colour_blind_theme_keeps_meanings_apart_for_every_kind_of_colour_vision() {
        let styles = styles("colour-blind");
        let runs = [
            Role::Run1,
            Role::Run2,
            Role::Run3,
            Role::Run4,
            Role::Run5,
            Role::Run6,
        ];
        let mut pairs = vec![
            (Role::Good, Role::Error),
            (Role::Good, Role::Warning),
            (Role::ChartEma, Role::ChartEval),
            (Role::ChartRaw, Role::ChartEma),
            (Role::BarRun, Role::BarOther),
            (Role::Added, Role::Removed),
        ];
        for (i, a) in runs.into_iter().enumerate() {
            pairs.extend(runs[i + 1..].iter().map(|b| (a, *b)));
        }
        for (a, b) in pairs {
            let fg = |role: Role| styles[role as usize].fg.unwrap();
            for vision in color::Vision::ALL {
                let apart = color::difference(fg(a), fg(b), vision);
                assert!(apart >= 18.0, "{a:?} and {b:?}, {vision:?}: {apart:.1}");
            }
        }
    }
}
