//! A line being typed: text with a cursor.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::text::{graphemes, one_line};

/// Text with a cursor between two of its characters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineEdit {
    text: String,
    /// In bytes.
    cursor: usize,
}

impl LineEdit {
    /// With the cursor at the end.
    pub fn new(text: &str) -> Self {
        let text = one_line(text);
        LineEdit {
            cursor: text.len(),
            text,
        }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Puts text in at the cursor; line breaks become spaces.
    pub fn insert(&mut self, text: &str) {
        let text = one_line(text);
        self.text.insert_str(self.cursor, &text);
        self.cursor += text.len();
    }

    /// Takes a key as shells do; false when it means nothing here.
    pub fn key(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        match key.code {
            KeyCode::Char('a') if control => self.cursor = 0,
            KeyCode::Char('e') if control => self.cursor = self.text.len(),
            KeyCode::Char('b') if control => self.cursor = self.before(),
            KeyCode::Char('f') if control => self.cursor = self.after(),
            KeyCode::Char('u') if control => self.cut(0, self.cursor),
            KeyCode::Char('k') if control => self.cut(self.cursor, self.text.len()),
            KeyCode::Char('w') if control => self.cut(self.word_before(), self.cursor),
            KeyCode::Char('d') if control => self.cut(self.cursor, self.after()),
            KeyCode::Char('h') if control => self.cut(self.before(), self.cursor),
            KeyCode::Char(c) if !control && !alt => self.insert(c.encode_utf8(&mut [0; 4])),
            KeyCode::Backspace if alt => self.cut(self.word_before(), self.cursor),
            KeyCode::Backspace => self.cut(self.before(), self.cursor),
            KeyCode::Delete => self.cut(self.cursor, self.after()),
            KeyCode::Left => self.cursor = self.before(),
            KeyCode::Right => self.cursor = self.after(),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            _ => return false,
        }
        true
    }

    fn cut(&mut self, from: usize, to: usize) {
        self.text.replace_range(from..to, "");
        self.cursor = from;
    }

    /// The position one character to the left, and to the right.
    fn before(&self) -> usize {
        let last = graphemes(&self.text[..self.cursor]).pop();
        self.cursor - last.map_or(0, |(symbol, _)| symbol.len())
    }

    fn after(&self) -> usize {
        let next = graphemes(&self.text[self.cursor..]).into_iter().next();
        self.cursor + next.map_or(0, |(symbol, _)| symbol.len())
    }

    fn word_before(&self) -> usize {
        let kept = self.text[..self.cursor].trim_end();
        kept.rfind(' ').map_or(0, |at| at + 1)
    }

    /// What stands before and after the cursor, as much as fits into `columns` with the cursor
    /// between them.
    pub fn view(&self, columns: usize) -> (String, String) {
        let room = columns.saturating_sub(1);
        let mut before: Vec<String> = Vec::new();
        let mut used = 0;
        for (symbol, w) in graphemes(&self.text[..self.cursor]).into_iter().rev() {
            if used + w > room {
                break;
            }
            used += w;
            before.push(symbol);
        }
        before.reverse();
        let mut after = String::new();
        for (symbol, w) in graphemes(&self.text[self.cursor..]) {
            if used + w > room {
                break;
            }
            used += w;
            after.push_str(&symbol);
        }
        (before.concat(), after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(start: &str, keys: &[(KeyCode, KeyModifiers)]) -> LineEdit {
        let mut line = LineEdit::new(start);
        for (code, modifiers) in keys {
            line.key(KeyEvent::new(*code, *modifiers));
        }
        line
    }

    const NONE: KeyModifiers = KeyModifiers::NONE;
    const CONTROL: KeyModifiers = KeyModifiers::CONTROL;

    #[test]
    fn a_line_is_edited_as_in_a_shell() {
        use KeyCode::*;
        for (keys, text) in [
            (vec![(Char('x'), NONE)], "one twox"),
            (vec![(Home, NONE), (Char('x'), NONE)], "xone two"),
            (vec![(Left, NONE), (Char('x'), NONE)], "one twxo"),
            (vec![(Char('w'), CONTROL)], "one "),
            (vec![(Char('u'), CONTROL)], ""),
            (
                vec![(Left, NONE), (Left, NONE), (Char('k'), CONTROL)],
                "one t",
            ),
            (vec![(Home, NONE), (Delete, NONE)], "ne two"),
            (vec![(Home, NONE), (Backspace, NONE)], "one two"),
            (vec![(Char('a'), CONTROL), (Char('d'), CONTROL)], "ne two"),
        ] {
            assert_eq!(typed("one two", &keys).text(), text, "{keys:?}");
        }
    }

    #[test]
    fn the_cursor_never_stands_inside_a_character() {
        let left = (KeyCode::Left, NONE);
        let line = typed("模型👩‍⚕️", &[left, left, (KeyCode::Char('x'), NONE)]);
        assert_eq!(line.text(), "模x型👩‍⚕️");
        let line = typed("模型👩‍⚕️", &[(KeyCode::Backspace, NONE)]);
        assert_eq!(line.text(), "模型");
    }

    #[test]
    fn what_is_near_the_cursor_is_seen() {
        let line = LineEdit::new("a very long line of text");
        assert_eq!(line.view(6), (" text".to_owned(), String::new()));
        let home = typed("模型训练", &[(KeyCode::Home, NONE)]);
        assert_eq!(home.view(6), (String::new(), "模型".to_owned()));
        assert_eq!(home.view(0), (String::new(), String::new()));
    }

    #[test]
    fn a_paste_is_one_line() {
        let mut line = LineEdit::new("");
        line.insert("two\nlines\x1b[2J");
        assert_eq!(line.text(), "two lines[2J");
    }
}
