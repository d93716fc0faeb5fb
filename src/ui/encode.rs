//! Changed cells as bytes, as few as can be: on a bad line the first frame and every later one
//! count. ratatui's own backend takes half as many again, since it names both colours with every
//! change of one and moves by absolute positions only.

use std::io::Write;

use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

use super::text::width;

/// Modifiers that show on a blank.
const VISIBLE_ON_BLANK: Modifier = Modifier::REVERSED
    .union(Modifier::UNDERLINED)
    .union(Modifier::CROSSED_OUT);

/// Modifiers with the numbers that switch them on.
const MODIFIERS: [(Modifier, &str); 5] = [
    (Modifier::BOLD, "1"),
    (Modifier::DIM, "2"),
    (Modifier::ITALIC, "3"),
    (Modifier::UNDERLINED, "4"),
    (Modifier::REVERSED, "7"),
];

/// Where the terminal's cursor is and how it writes.
struct Pen<'a> {
    out: &'a mut Vec<u8>,
    next: &'a Buffer,
    /// `None`: not known.
    at: Option<(u16, u16)>,
    fg: Color,
    bg: Color,
    modifier: Modifier,
}

/// Appends what turns `shown` into `next`; both have the same area, and colours are reset before
/// and after.
pub fn encode(shown: &Buffer, next: &Buffer, out: &mut Vec<u8>) {
    let mut pen = Pen {
        out,
        next,
        at: None,
        fg: Color::Reset,
        bg: Color::Reset,
        modifier: Modifier::empty(),
    };
    let area = next.area;
    for y in area.top()..area.bottom() {
        let mut x = area.left();
        // Up to here the terminal may show rests of wide characters that were overwritten.
        let mut stale = x;
        while x < area.right() {
            let cell = &next[(x, y)];
            let end = area.right().min(x + width(cell.symbol()).max(1) as u16);
            if x < stale || (x..end).any(|i| next[(i, y)] != shown[(i, y)]) {
                for i in x..end {
                    stale = stale.max(i + width(shown[(i, y)].symbol()) as u16);
                }
                pen.move_to(x, y);
                pen.write(cell);
            }
            x = end;
        }
    }
    if pen.fg != Color::Reset || pen.bg != Color::Reset || !pen.modifier.is_empty() {
        pen.out.extend(b"\x1b[0m");
    }
}

/// Blanks wide characters whose right half something else was drawn over: a terminal would let them
/// overwrite it.
pub fn settle_wide(buf: &mut Buffer) {
    let hidden =
        |cell: &Cell| cell.symbol() == " " && cell.fg == Color::Reset && cell.modifier.is_empty();
    for y in buf.area.top()..buf.area.bottom() {
        for x in buf.area.left()..buf.area.right().saturating_sub(1) {
            if width(buf[(x, y)].symbol()) > 1 && !hidden(&buf[(x + 1, y)]) {
                buf[(x, y)].set_symbol(" ");
            }
        }
    }
}

impl Pen<'_> {
    /// Writes to memory do not fail.
    fn emit(&mut self, text: std::fmt::Arguments) {
        let _ = self.out.write_fmt(text);
    }

    fn move_to(&mut self, x: u16, y: u16) {
        match self.at {
            Some(at) if at == (x, y) => {}
            Some((from, row)) if row == y && x > from => self.right(from, x, y),
            Some((_, row)) if row + 1 == y => {
                self.out.extend(b"\r\n");
                self.right(0, x, y);
            }
            _ => self.emit(format_args!("\x1b[{};{}H", y + 1, x + 1)),
        }
        self.at = Some((x, y));
    }

    /// Over cells that stay: blanks are written again where that is shorter than a jump.
    fn right(&mut self, from: u16, to: u16, y: u16) {
        let blank = |x| self.next.cell((x, y)).is_some_and(|c| self.writes_as_is(c));
        if to - from <= 4 && (from..to).all(blank) {
            self.out
                .extend(std::iter::repeat_n(b' ', (to - from).into()));
        } else if to > from {
            self.emit(format_args!("\x1b[{}C", to - from));
        }
    }

    /// A blank looks the same in any foreground.
    fn writes_as_is(&self, cell: &Cell) -> bool {
        let shows = |m: Modifier| m.intersects(VISIBLE_ON_BLANK);
        cell.symbol() == " " && cell.bg == self.bg && !shows(cell.modifier) && !shows(self.modifier)
    }

    fn write(&mut self, cell: &Cell) {
        if !self.writes_as_is(cell) {
            self.style(cell);
        }
        let symbol = cell.symbol();
        self.out.extend(symbol.as_bytes());
        let columns = width(symbol) as u16;
        // Terminals disagree on how wide some characters are; after one the position is named.
        let certain = columns == 1 && symbol.chars().count() == 1;
        self.at = self.at.filter(|_| certain).map(|(x, y)| (x + 1, y));
    }

    fn style(&mut self, cell: &Cell) {
        let mut codes: Vec<String> = Vec::new();
        if !(self.modifier - cell.modifier).is_empty() {
            codes.push("0".into());
            self.fg = Color::Reset;
            self.bg = Color::Reset;
            self.modifier = Modifier::empty();
        }
        for (modifier, code) in MODIFIERS {
            if (cell.modifier - self.modifier).contains(modifier) {
                codes.push(code.into());
            }
        }
        if cell.fg != self.fg {
            codes.push(color_code(cell.fg, 30));
        }
        if cell.bg != self.bg {
            codes.push(color_code(cell.bg, 40));
        }
        self.fg = cell.fg;
        self.bg = cell.bg;
        self.modifier = cell.modifier;
        if !codes.is_empty() {
            self.emit(format_args!("\x1b[{}m", codes.join(";")));
        }
    }
}

/// The number of a colour; `base` is 30 for the foreground and 40 for the background.
fn color_code(color: Color, base: u8) -> String {
    let plain = |i: u8| (base + i).to_string();
    let bright = |i: u8| (base + 60 + i).to_string();
    match color {
        Color::Reset => plain(9),
        Color::Black => plain(0),
        Color::Red => plain(1),
        Color::Green => plain(2),
        Color::Yellow => plain(3),
        Color::Blue => plain(4),
        Color::Magenta => plain(5),
        Color::Cyan => plain(6),
        Color::Gray => plain(7),
        Color::DarkGray => bright(0),
        Color::LightRed => bright(1),
        Color::LightGreen => bright(2),
        Color::LightYellow => bright(3),
        Color::LightBlue => bright(4),
        Color::LightMagenta => bright(5),
        Color::LightCyan => bright(6),
        Color::White => bright(7),
        Color::Indexed(i) => format!("{};5;{i}", base + 8),
        Color::Rgb(r, g, b) => format!("{};2;{r};{g};{b}", base + 8),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZero;

    use ratatui::layout::Rect;
    use ratatui::style::Style;

    use super::*;

    const COLUMNS: u16 = 24;
    const ROWS: u16 = 7;

    /// Numbers that look random and are the same on every machine.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, n: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(99);
            (self.0 >> 33) % n
        }
    }

    fn scribble(buf: &mut Buffer, dice: &mut Dice) {
        let texts = ["abc", "  ", "模型", "x", " ", "━━", "⣿", "one two", "界a界"];
        let colors = [
            Color::Reset,
            Color::Red,
            Color::LightCyan,
            Color::Indexed(99),
            Color::Rgb(1, 20, 255),
        ];
        for _ in 0..12 {
            let mut style = Style::reset()
                .fg(colors[dice.roll(5) as usize])
                .bg(colors[dice.roll(8).min(4) as usize % 5]);
            for (modifier, _) in MODIFIERS {
                // The emulator knows bold or dim, not both.
                let both = modifier == Modifier::DIM && style.add_modifier.contains(Modifier::BOLD);
                if dice.roll(4) == 0 && !both {
                    style = style.add_modifier(modifier);
                }
            }
            let (x, y) = (dice.roll(COLUMNS.into()), dice.roll(ROWS.into()));
            let text = texts[dice.roll(texts.len() as u64) as usize];
            buf.set_string(x as u16, y as u16, text, style);
        }
    }

    fn seen(color: vt100::Color) -> Color {
        match color {
            vt100::Color::Default => Color::Reset,
            vt100::Color::Idx(1) => Color::Red,
            vt100::Color::Idx(14) => Color::LightCyan,
            vt100::Color::Idx(i) => Color::Indexed(i),
            vt100::Color::Rgb(r, g, b) => Color::Rgb(r, g, b),
        }
    }

    #[test]
    fn a_terminal_shows_what_the_buffer_holds_after_any_changes() {
        let area = Rect::new(0, 0, COLUMNS, ROWS);
        let cells = |n| NonZero::new(n).unwrap();
        let mut dice = Dice(7);
        let mut terminal = vt100::Parser::new(cells(ROWS), cells(COLUMNS), 0);
        let mut shown = Buffer::empty(area);
        for round in 0..400 {
            let mut next = if round % 5 == 0 {
                Buffer::empty(area)
            } else {
                shown.clone()
            };
            scribble(&mut next, &mut dice);
            settle_wide(&mut next);
            let mut bytes = Vec::new();
            encode(&shown, &next, &mut bytes);
            terminal.process(&bytes);
            for y in 0..ROWS {
                let mut hidden = 0;
                for x in 0..COLUMNS {
                    let cell = &next[(x, y)];
                    if hidden > 0 {
                        hidden -= 1;
                        continue;
                    }
                    hidden = width(cell.symbol()).saturating_sub(1);
                    let there = terminal.screen().cell(y, x).unwrap();
                    let symbol = match there.contents() {
                        "" => " ",
                        contents => contents,
                    };
                    assert_eq!(symbol, cell.symbol(), "round {round}, {x},{y}");
                    assert_eq!(seen(there.bgcolor()), cell.bg, "round {round}, {x},{y}");
                    assert_eq!(
                        there.inverse(),
                        cell.modifier.contains(Modifier::REVERSED),
                        "round {round}, {x},{y}: {cell:?}"
                    );
                    assert_eq!(
                        there.underline(),
                        cell.modifier.contains(Modifier::UNDERLINED)
                    );
                    if symbol != " " {
                        assert_eq!(seen(there.fgcolor()), cell.fg, "round {round}, {x},{y}");
                        assert_eq!(there.bold(), cell.modifier.contains(Modifier::BOLD));
                        assert_eq!(there.dim(), cell.modifier.contains(Modifier::DIM));
                        assert_eq!(there.italic(), cell.modifier.contains(Modifier::ITALIC));
                    }
                }
            }
            shown = next;
        }
    }
}
