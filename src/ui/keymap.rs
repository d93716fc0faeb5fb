//! The one table of keys: dispatch, help, hints and palette all read it. A person's own keys
//! replace its keys, action by action.

mod file;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::lang::Lang;
use super::layout::Pane;

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Pause,
    Checkpoint,
    Export,
    Sample,
    SamplePrompt,
    Eval,
    Detach,
    Runs,
    Stop,
    Show(Pane),
    NextPane,
    PreviousPane,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    First,
    Last,
    Maximise,
    Back,
    Filter,
    ZoomIn,
    ZoomOut,
    ZoomWhole,
    LogScale,
    CrosshairLeft,
    CrosshairRight,
    PanLeft,
    PanRight,
    Smoother,
    Rougher,
    Compare,
    Align,
    EditValue,
    EditFile,
    Exclude,
    Replace,
    RemoveTag,
    Undo,
    Remedy,
    Yank,
    Bell,
    Help,
    Palette,
    Theme,
    Mouse,
    Redraw,
    Suspend,
}

/// Heading in the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Run,
    Move,
    Chart,
    Data,
    Deck,
}

impl Group {
    pub const ALL: [Group; 5] = [
        Group::Run,
        Group::Move,
        Group::Chart,
        Group::Data,
        Group::Deck,
    ];

    pub fn title(self, lang: Lang) -> &'static str {
        match self {
            Group::Run => lang.group_run(),
            Group::Move => lang.group_move(),
            Group::Chart => lang.group_chart(),
            Group::Data => lang.group_data(),
            Group::Deck => lang.group_deck(),
        }
    }
}

/// A text of the interface.
pub type Text = fn(Lang) -> &'static str;

/// One line of the table.
#[derive(Debug)]
pub struct Binding {
    pub act: Act,
    pub keys: &'static [Key],
    pub group: Group,
    /// Stable name, for the palette and for keymaps.
    pub name: &'static str,
    pub help: Text,
    /// A word for the hints at the bottom; empty: none.
    pub hint: Text,
}

/// A key with its modifiers; Shift is part of the character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Char(char),
    Ctrl(char),
    Code(KeyCode),
}

impl Key {
    fn matches(self, event: &KeyEvent) -> bool {
        let control = event.modifiers.contains(KeyModifiers::CONTROL);
        let alt = event.modifiers.contains(KeyModifiers::ALT);
        match self {
            Key::Char(c) => !control && !alt && event.code == KeyCode::Char(c),
            Key::Ctrl(c) => control && !alt && event.code == KeyCode::Char(c),
            Key::Code(code) => !control && !alt && event.code == code,
        }
    }

    /// As written in the help.
    pub fn label(self) -> String {
        match self {
            Key::Char(' ') => "Space".into(),
            Key::Char(c) => c.to_string(),
            Key::Ctrl(c) => format!("Ctrl-{}", c.to_ascii_uppercase()),
            Key::Code(code) => match code {
                KeyCode::BackTab => "Shift-Tab".into(),
                KeyCode::PageUp => "PgUp".into(),
                KeyCode::PageDown => "PgDn".into(),
                KeyCode::F(n) => format!("F{n}"),
                code => format!("{code:?}"),
            },
        }
    }
}

use Act::*;
use Key::{Char, Code, Ctrl};

const fn binding(
    act: Act,
    keys: &'static [Key],
    group: Group,
    name: &'static str,
    help: Text,
    hint: Text,
) -> Binding {
    Binding {
        act,
        keys,
        group,
        name,
        help,
        hint,
    }
}

/// Every key of the deck.
#[rustfmt::skip]
pub static TABLE: &[Binding] = &[
    binding(Pause, &[Char('p')], Group::Run, "pause", Lang::help_pause, Lang::hint_pause),
    binding(Checkpoint, &[Char('c')], Group::Run, "checkpoint", Lang::help_checkpoint, Lang::hint_checkpoint),
    binding(Export, &[Char('e')], Group::Run, "export", Lang::help_export, Lang::hint_export),
    binding(Sample, &[Char('s')], Group::Run, "sample", Lang::help_sample, Lang::hint_sample),
    binding(SamplePrompt, &[Char('S')], Group::Run, "sample-prompt", Lang::help_sample_prompt, Lang::no_hint),
    binding(Eval, &[Char('E')], Group::Run, "eval", Lang::help_eval, Lang::hint_eval),
    binding(Stop, &[Char('Q')], Group::Run, "stop", Lang::help_stop, Lang::hint_stop),
    binding(EditValue, &[Char('i')], Group::Run, "edit-value", Lang::help_edit_value, Lang::hint_edit_value),
    binding(EditFile, &[Char('o')], Group::Run, "edit-file", Lang::help_edit_file, Lang::no_hint),
    binding(Remedy, &[Char('a')], Group::Run, "remedy", Lang::help_remedy, Lang::no_hint),
    binding(Detach, &[Char('q'), Ctrl('c')], Group::Run, "detach", Lang::help_detach, Lang::hint_detach),
    binding(Runs, &[Char('r')], Group::Run, "runs", Lang::help_runs, Lang::no_hint),
    binding(NextPane, &[Code(KeyCode::Tab)], Group::Move, "next-pane", Lang::help_next_pane, Lang::no_hint),
    binding(PreviousPane, &[Code(KeyCode::BackTab)], Group::Move, "previous-pane", Lang::help_previous_pane, Lang::no_hint),
    binding(Maximise, &[Code(KeyCode::Enter)], Group::Move, "maximise", Lang::help_maximise, Lang::hint_maximise),
    binding(Back, &[Code(KeyCode::Esc)], Group::Move, "back", Lang::help_back, Lang::no_hint),
    binding(Up, &[Code(KeyCode::Up), Char('k')], Group::Move, "up", Lang::help_up, Lang::no_hint),
    binding(Down, &[Code(KeyCode::Down), Char('j')], Group::Move, "down", Lang::help_down, Lang::no_hint),
    binding(Left, &[Code(KeyCode::Left), Char('h')], Group::Move, "left", Lang::help_left, Lang::no_hint),
    binding(Right, &[Code(KeyCode::Right), Char('l')], Group::Move, "right", Lang::help_right, Lang::no_hint),
    binding(PageUp, &[Code(KeyCode::PageUp), Ctrl('b')], Group::Move, "page-up", Lang::help_page_up, Lang::no_hint),
    binding(PageDown, &[Code(KeyCode::PageDown), Ctrl('f')], Group::Move, "page-down", Lang::help_page_down, Lang::no_hint),
    binding(First, &[Code(KeyCode::Home), Char('g')], Group::Move, "first", Lang::help_first, Lang::no_hint),
    binding(Last, &[Code(KeyCode::End), Char('G')], Group::Move, "last", Lang::help_last, Lang::no_hint),
    binding(Filter, &[Char('/')], Group::Move, "filter", Lang::help_filter, Lang::hint_filter),
    binding(Show(Pane::Loss), &[Char('1')], Group::Move, "loss", Lang::help_show_loss, Lang::no_hint),
    binding(Show(Pane::Rate), &[Char('2')], Group::Move, "learning-rate", Lang::help_show_rate, Lang::no_hint),
    binding(Show(Pane::Gpu), &[Char('3')], Group::Move, "gpu", Lang::help_show_gpu, Lang::no_hint),
    binding(Show(Pane::Host), &[Char('4')], Group::Move, "host", Lang::help_show_host, Lang::no_hint),
    binding(Show(Pane::Config), &[Char('5')], Group::Move, "config", Lang::help_show_config, Lang::no_hint),
    binding(Show(Pane::Data), &[Char('6')], Group::Move, "data", Lang::help_show_data, Lang::no_hint),
    binding(Show(Pane::Samples), &[Char('7')], Group::Move, "samples", Lang::help_show_samples, Lang::no_hint),
    binding(Show(Pane::Checkpoints), &[Char('8')], Group::Move, "checkpoints", Lang::help_show_checkpoints, Lang::no_hint),
    binding(Show(Pane::Log), &[Char('9')], Group::Move, "log", Lang::help_show_log, Lang::no_hint),
    binding(ZoomIn, &[Char('+'), Char('=')], Group::Chart, "zoom-in", Lang::help_zoom_in, Lang::no_hint),
    binding(ZoomOut, &[Char('-')], Group::Chart, "zoom-out", Lang::help_zoom_out, Lang::no_hint),
    binding(ZoomWhole, &[Char('0')], Group::Chart, "zoom-whole", Lang::help_zoom_whole, Lang::no_hint),
    binding(LogScale, &[Char('L')], Group::Chart, "log-scale", Lang::help_log_scale, Lang::no_hint),
    binding(CrosshairLeft, &[Char('[')], Group::Chart, "crosshair-left", Lang::help_crosshair_left, Lang::no_hint),
    binding(CrosshairRight, &[Char(']')], Group::Chart, "crosshair-right", Lang::help_crosshair_right, Lang::no_hint),
    binding(PanLeft, &[Char('<')], Group::Chart, "pan-left", Lang::help_pan_left, Lang::no_hint),
    binding(PanRight, &[Char('>')], Group::Chart, "pan-right", Lang::help_pan_right, Lang::no_hint),
    binding(Rougher, &[Char('{')], Group::Chart, "less-smooth", Lang::help_rougher, Lang::no_hint),
    binding(Smoother, &[Char('}')], Group::Chart, "smoother", Lang::help_smoother, Lang::no_hint),
    binding(Compare, &[Char('v')], Group::Chart, "compare", Lang::help_compare, Lang::no_hint),
    binding(Align, &[Char('x')], Group::Chart, "align", Lang::help_align, Lang::no_hint),
    binding(Exclude, &[Char('X')], Group::Data, "exclude", Lang::help_exclude, Lang::hint_exclude),
    binding(Replace, &[Char('R')], Group::Data, "replace", Lang::help_replace, Lang::hint_replace),
    binding(RemoveTag, &[Char('T')], Group::Data, "remove-tag", Lang::help_remove_tag, Lang::no_hint),
    binding(Undo, &[Char('u')], Group::Data, "undo", Lang::help_undo, Lang::no_hint),
    binding(Help, &[Char('?'), Code(KeyCode::F(1))], Group::Deck, "help", Lang::help_help, Lang::hint_help),
    binding(Palette, &[Char(':')], Group::Deck, "palette", Lang::help_palette, Lang::hint_palette),
    binding(Theme, &[Char('t')], Group::Deck, "theme", Lang::help_theme, Lang::hint_theme),
    binding(Mouse, &[Char('m')], Group::Deck, "mouse", Lang::help_mouse, Lang::hint_mouse),
    binding(Yank, &[Char('y')], Group::Deck, "yank", Lang::help_yank, Lang::no_hint),
    binding(Bell, &[Char('B')], Group::Deck, "bell", Lang::help_bell, Lang::no_hint),
    binding(Redraw, &[Ctrl('l')], Group::Deck, "redraw", Lang::help_redraw, Lang::no_hint),
    binding(Suspend, &[Ctrl('z')], Group::Deck, "suspend", Lang::help_suspend, Lang::no_hint),
];

/// The keys in use: the table's own, or a person's.
#[derive(Clone, Debug, PartialEq)]
pub struct Keymap {
    /// In the order of [`TABLE`].
    keys: Vec<Vec<Key>>,
}

impl Default for Keymap {
    fn default() -> Self {
        Keymap {
            keys: TABLE.iter().map(|b| b.keys.to_vec()).collect(),
        }
    }
}

impl Keymap {
    /// What a key means, if anything.
    pub fn lookup(&self, event: &KeyEvent) -> Option<Act> {
        TABLE
            .iter()
            .zip(&self.keys)
            .find(|(_, keys)| keys.iter().any(|k| k.matches(event)))
            .map(|(b, _)| b.act)
    }

    /// The keys of an action of the table.
    pub fn keys(&self, act: Act) -> &[Key] {
        let at = TABLE.iter().position(|b| b.act == act);
        at.map_or(&[], |at| &self.keys[at])
    }

    /// Keys of an action as one label, `Up k`; empty when it has none.
    pub fn label(&self, act: Act) -> String {
        let labels: Vec<_> = self.keys(act).iter().map(|k| k.label()).collect();
        labels.join(" ")
    }

    /// The first of them: for a hint.
    pub fn first(&self, act: Act) -> Option<String> {
        self.keys(act).first().map(|k| k.label())
    }
}

/// Bindings whose name or help contains the letters of `query` in order, best first.
pub fn search(query: &str, lang: Lang) -> Vec<&'static Binding> {
    let mut found: Vec<_> = TABLE
        .iter()
        .enumerate()
        .filter(|(_, b)| b.act != Palette)
        .filter_map(|(i, b)| {
            let name = score(query, b.name).map(|s| s + 100);
            // A help is too long to be searched letter by letter.
            let help = (b.help)(lang)
                .to_lowercase()
                .contains(&query.to_lowercase())
                .then_some(0);
            let best = name.max(help)?;
            Some((std::cmp::Reverse(best), i, b))
        })
        .collect();
    found.sort_by_key(|(score, i, _)| (*score, *i));
    found.into_iter().map(|(_, _, b)| b).collect()
}

/// How well `text` holds the letters of `query` in order: neighbours and beginnings of words count
/// more. `None`: it does not.
fn score(query: &str, text: &str) -> Option<i32> {
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let mut at = 0;
    let mut total = 0;
    let mut last = None;
    for c in query.to_lowercase().chars().filter(|c| *c != ' ') {
        let found = at + text[at..].iter().position(|t| *t == c)?;
        total += 1;
        if last.is_some_and(|l: usize| l + 1 == found) {
            total += 5;
        }
        if found == 0 || !text[found - 1].is_alphanumeric() {
            total += 8;
        }
        last = Some(found);
        at = found + 1;
    }
    // Letters that stand together count most.
    let whole: String = text.iter().collect();
    if !query.is_empty() && whole.contains(&query.to_lowercase()) {
        total += 20;
    }
    Some(total - text.len() as i32 / 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things() {
        let mut keys: Vec<String> = TABLE
            .iter()
            .flat_map(|b| b.keys.iter().map(|k| k.label()))
            .collect();
        let all = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), all);
    }

    #[test]
    fn every_number_shows_its_pane() {
        for pane in Pane::ALL {
            let c = char::from_digit(pane.number() as u32, 10).unwrap();
            let key = KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE);
            assert_eq!(Keymap::default().lookup(&key), Some(Show(pane)));
        }
    }

    #[test]
    fn capitals_arrive_with_shift_and_ctrl_is_not_the_letter() {
        let shift_q = KeyEvent::new(KeyCode::Char('Q'), KeyModifiers::SHIFT);
        let keymap = Keymap::default();
        assert_eq!(keymap.lookup(&shift_q), Some(Stop));
        let ctrl_p = KeyEvent::new(KeyCode::Char('p'), KeyModifiers::CONTROL);
        assert_eq!(keymap.lookup(&ctrl_p), None);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(keymap.lookup(&ctrl_c), Some(Detach));
    }

    #[test]
    fn the_palette_finds_by_letters_and_names_win() {
        assert_eq!(search("chk", Lang::English)[0].act, Checkpoint);
        assert_eq!(search("pau", Lang::English)[0].act, Pause);
        assert_eq!(search("log", Lang::English)[0].act, Show(Pane::Log));
        assert_eq!(search("", Lang::English).len(), TABLE.len() - 1);
        assert!(search("zzzz", Lang::English).is_empty());
    }
}
