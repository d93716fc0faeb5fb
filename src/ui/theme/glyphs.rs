//! The characters that draw lines, bars and marks: one set for Unicode, one for ASCII.

/// Every character of the deck that is not text.
#[derive(Debug)]
pub struct Glyphs {
    pub unicode: bool,
    /// Rule above a pane, and above the focused one.
    pub rule: &'static str,
    pub rule_focus: &'static str,
    pub vertical: &'static str,
    pub corner: &'static str,
    pub ellipsis: &'static str,
    pub full: &'static str,
    pub empty: &'static str,
    /// A filled bar's last cell, from one eighth (or the only one) to full.
    pub eighths: &'static [&'static str],
    /// A sparkline's levels, lowest first.
    pub levels: &'static [&'static str],
    pub grid: &'static str,
    pub dotted: &'static str,
    pub crosshair: &'static str,
    pub eval: &'static str,
    pub checkpoint: &'static str,
    pub non_finite: &'static str,
    pub pause: &'static str,
    pub config_change: &'static str,
    pub resume: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub left: &'static str,
    pub right: &'static str,
    pub arrow: &'static str,
    pub bullet: &'static str,
    pub circle: &'static str,
    pub separator: &'static str,
    pub times: &'static str,
    pub sample: &'static str,
    pub alert: &'static str,
    pub phase_running: &'static str,
    pub phase_waiting: &'static str,
    pub phase_paused: &'static str,
    pub phase_done: &'static str,
    pub phase_failed: &'static str,
    pub phase_stopped: &'static str,
    pub cursor: &'static str,
    pub box_top: [&'static str; 2],
    pub box_bottom: [&'static str; 2],
    pub degree: &'static str,
}

pub static UNICODE: Glyphs = Glyphs {
    unicode: true,
    rule: "─",
    rule_focus: "━",
    vertical: "│",
    corner: "└",
    ellipsis: "…",
    full: "█",
    empty: "░",
    eighths: &["▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"],
    levels: &["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"],
    grid: "┈",
    dotted: "╌",
    crosshair: "│",
    eval: "●",
    checkpoint: "▴",
    non_finite: "✖",
    pause: "‖",
    config_change: "Δ",
    resume: "↻",
    up: "▲",
    down: "▼",
    left: "◂",
    right: "▸",
    arrow: "→",
    bullet: "•",
    circle: "●",
    separator: "·",
    times: "×",
    sample: "◆",
    alert: "▲",
    phase_running: "▶",
    phase_waiting: "◌",
    phase_paused: "‖",
    phase_done: "✔",
    phase_failed: "✖",
    phase_stopped: "■",
    cursor: "▏",
    box_top: ["╭", "╮"],
    box_bottom: ["╰", "╯"],
    degree: "°",
};

pub static ASCII: Glyphs = Glyphs {
    unicode: false,
    rule: "-",
    rule_focus: "=",
    vertical: "|",
    corner: "+",
    ellipsis: "~",
    full: "#",
    empty: ".",
    eighths: &["#"],
    levels: &["_", ".", "-", "=", "+", "*", "%", "#"],
    grid: ".",
    dotted: "-",
    crosshair: "|",
    eval: "@",
    checkpoint: "^",
    non_finite: "X",
    pause: "\"",
    config_change: "d",
    resume: "r",
    up: "^",
    down: "v",
    left: "<",
    right: ">",
    arrow: "->",
    bullet: "*",
    circle: "*",
    separator: "-",
    times: "x",
    sample: "s",
    alert: "!",
    phase_running: ">",
    phase_waiting: "o",
    phase_paused: "\"",
    phase_done: "*",
    phase_failed: "X",
    phase_stopped: "#",
    cursor: "_",
    box_top: ["+", "+"],
    box_bottom: ["+", "+"],
    degree: "",
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::text::width;

    #[test]
    fn ascii_glyphs_are_ascii_and_marks_are_one_column_wide() {
        // The debug form names every field: a glyph added later is checked as well.
        assert!(format!("{ASCII:?}").is_ascii());
        for g in [&UNICODE, &ASCII] {
            for mark in [
                g.rule,
                g.rule_focus,
                g.vertical,
                g.full,
                g.empty,
                g.eval,
                g.checkpoint,
                g.non_finite,
                g.pause,
                g.config_change,
                g.resume,
                g.sample,
                g.alert,
                g.cursor,
                g.phase_running,
                g.phase_paused,
            ] {
                assert_eq!(width(mark), 1, "{mark}");
            }
        }
    }
}
