//! The one table of keys: dispatch, help, hints and palette all read it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::layout::Pane;

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Pause,
    Checkpoint,
    Export,
    Sample,
    Eval,
    Detach,
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
    Deck,
}

impl Group {
    pub const ALL: [Group; 4] = [Group::Run, Group::Move, Group::Chart, Group::Deck];

    pub fn title(self) -> &'static str {
        match self {
            Group::Run => "the run",
            Group::Move => "moving",
            Group::Chart => "charts",
            Group::Deck => "the deck",
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub struct Binding {
    pub act: Act,
    pub keys: &'static [Key],
    pub group: Group,
    /// Stable name, for the palette and for keymaps to come.
    pub name: &'static str,
    pub help: &'static str,
    /// A word for the hints at the bottom; empty: none.
    pub hint: &'static str,
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
    help: &'static str,
    hint: &'static str,
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
    binding(Pause, &[Char('p')], Group::Run, "pause", "pause or resume; an ended run: start its runner again", "pause"),
    binding(Checkpoint, &[Char('c')], Group::Run, "checkpoint", "save a checkpoint now", "checkpoint"),
    binding(Export, &[Char('e')], Group::Run, "export", "export the adapter as it is now", "export"),
    binding(Sample, &[Char('s')], Group::Run, "sample", "sample the prompts now", "sample"),
    binding(Eval, &[Char('E')], Group::Run, "eval", "evaluate the held-out records now", "eval"),
    binding(Stop, &[Char('Q')], Group::Run, "stop", "stop the run: save, discard or cancel", "stop"),
    binding(Detach, &[Char('q'), Ctrl('c')], Group::Run, "detach", "leave the deck; the run goes on", "detach"),
    binding(NextPane, &[Code(KeyCode::Tab)], Group::Move, "next-pane", "next pane", ""),
    binding(PreviousPane, &[Code(KeyCode::BackTab)], Group::Move, "previous-pane", "previous pane", ""),
    binding(Maximise, &[Code(KeyCode::Enter)], Group::Move, "maximise", "maximise the pane, or restore it", "maximise"),
    binding(Back, &[Code(KeyCode::Esc)], Group::Move, "back", "close, clear the filter, restore", ""),
    binding(Up, &[Code(KeyCode::Up), Char('k')], Group::Move, "up", "scroll up, or the pane above", ""),
    binding(Down, &[Code(KeyCode::Down), Char('j')], Group::Move, "down", "scroll down, or the pane below", ""),
    binding(Left, &[Code(KeyCode::Left), Char('h')], Group::Move, "left", "earlier sample, previous record, or the pane to the left", ""),
    binding(Right, &[Code(KeyCode::Right), Char('l')], Group::Move, "right", "later sample, next record, or the pane to the right", ""),
    binding(PageUp, &[Code(KeyCode::PageUp), Ctrl('b')], Group::Move, "page-up", "scroll a page up", ""),
    binding(PageDown, &[Code(KeyCode::PageDown), Ctrl('f')], Group::Move, "page-down", "scroll a page down", ""),
    binding(First, &[Code(KeyCode::Home), Char('g')], Group::Move, "first", "to the beginning", ""),
    binding(Last, &[Code(KeyCode::End), Char('G')], Group::Move, "last", "to the end", ""),
    binding(Filter, &[Char('/')], Group::Move, "filter", "filter the config or the log", "filter"),
    binding(Show(Pane::Loss), &[Char('1')], Group::Move, "loss", "the loss chart", ""),
    binding(Show(Pane::Rate), &[Char('2')], Group::Move, "learning-rate", "learning rate and gradient norm", ""),
    binding(Show(Pane::Gpu), &[Char('3')], Group::Move, "gpu", "the GPU", ""),
    binding(Show(Pane::Host), &[Char('4')], Group::Move, "host", "the host", ""),
    binding(Show(Pane::Config), &[Char('5')], Group::Move, "config", "the config", ""),
    binding(Show(Pane::Data), &[Char('6')], Group::Move, "data", "the data", ""),
    binding(Show(Pane::Samples), &[Char('7')], Group::Move, "samples", "the samples", ""),
    binding(Show(Pane::Checkpoints), &[Char('8')], Group::Move, "checkpoints", "checkpoints and exports", ""),
    binding(Show(Pane::Log), &[Char('9')], Group::Move, "log", "the log", ""),
    binding(ZoomIn, &[Char('+'), Char('=')], Group::Chart, "zoom-in", "zoom in on recent steps, or on the crosshair", ""),
    binding(ZoomOut, &[Char('-')], Group::Chart, "zoom-out", "zoom out", ""),
    binding(ZoomWhole, &[Char('0')], Group::Chart, "zoom-whole", "show the whole run", ""),
    binding(LogScale, &[Char('L')], Group::Chart, "log-scale", "logarithmic or linear scale", ""),
    binding(CrosshairLeft, &[Char('[')], Group::Chart, "crosshair-left", "crosshair to the left", ""),
    binding(CrosshairRight, &[Char(']')], Group::Chart, "crosshair-right", "crosshair to the right", ""),
    binding(Help, &[Char('?'), Code(KeyCode::F(1))], Group::Deck, "help", "this help", "help"),
    binding(Palette, &[Char(':')], Group::Deck, "palette", "find an action by its name", "palette"),
    binding(Theme, &[Char('t')], Group::Deck, "theme", "next theme", "theme"),
    binding(Mouse, &[Char('m')], Group::Deck, "mouse", "mouse on or off (off: the terminal selects text)", "mouse"),
    binding(Redraw, &[Ctrl('l')], Group::Deck, "redraw", "draw everything anew", ""),
    binding(Suspend, &[Ctrl('z')], Group::Deck, "suspend", "suspend the deck; fg brings it back", ""),
];

/// What a key means, if anything.
pub fn lookup(event: &KeyEvent) -> Option<Act> {
    TABLE
        .iter()
        .find(|b| b.keys.iter().any(|k| k.matches(event)))
        .map(|b| b.act)
}

/// Keys of an action as one label: `Up k`.
pub fn label(binding: &Binding) -> String {
    let labels: Vec<_> = binding.keys.iter().map(|k| k.label()).collect();
    labels.join(" ")
}

/// Bindings whose name or help contains the letters of `query` in order, best first.
pub fn search(query: &str) -> Vec<&'static Binding> {
    let mut found: Vec<_> = TABLE
        .iter()
        .enumerate()
        .filter(|(_, b)| b.act != Palette)
        .filter_map(|(i, b)| {
            let name = score(query, b.name).map(|s| s + 100);
            // A help is too long to be searched letter by letter.
            let help = b.help.contains(&query.to_lowercase()).then_some(0);
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
            assert_eq!(lookup(&key), Some(Show(pane)));
        }
    }

    #[test]
    fn capitals_arrive_with_shift_and_ctrl_is_not_the_letter() {
        let shift_q = KeyEvent::new(KeyCode::Char('Q'), KeyModifiers::SHIFT);
        assert_eq!(lookup(&shift_q), Some(Stop));
        let ctrl_p = KeyEvent::new(KeyCode::Char('p'), KeyModifiers::CONTROL);
        assert_eq!(lookup(&ctrl_p), None);
        let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(lookup(&ctrl_c), Some(Detach));
    }

    #[test]
    fn the_palette_finds_by_letters_and_names_win() {
        assert_eq!(search("chk")[0].act, Checkpoint);
        assert_eq!(search("pau")[0].act, Pause);
        assert_eq!(search("log")[0].act, Show(Pane::Log));
        assert_eq!(search("").len(), TABLE.len() - 1);
        assert!(search("zzzz").is_empty());
    }
}
