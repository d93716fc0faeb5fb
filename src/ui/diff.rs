//! What two texts have in common, word by word.

use similar::{Algorithm, DiffOp, capture_diff_slices};

use super::text::{graphemes, width};

/// Texts that share less than this are two texts, not one that was changed.
const SHARED: f64 = 0.3;

/// A piece of a text, and whether the other text has it too.
pub type Part = (String, bool);

/// Both texts in pieces; `None` where they share too little for a comparison to help.
pub fn words(old: &str, new: &str) -> Option<(Vec<Part>, Vec<Part>)> {
    let (old, new) = (tokens(old), tokens(new));
    let ops = capture_diff_slices(Algorithm::Myers, &old, &new);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut shared = 0;
    for op in &ops {
        let same = matches!(op, DiffOp::Equal { .. });
        let (from, to) = (&old[op.old_range()], &new[op.new_range()]);
        if same {
            shared += from.iter().filter(|t| !t.trim().is_empty()).count();
        }
        if !from.is_empty() {
            left.push((from.concat(), same));
        }
        if !to.is_empty() {
            right.push((to.concat(), same));
        }
    }
    let count = |tokens: &[String]| tokens.iter().filter(|t| !t.trim().is_empty()).count();
    let longest = count(&old).max(count(&new)).max(1);
    (shared as f64 >= SHARED * longest as f64).then_some((left, right))
}

/// Words, runs of blanks, and single characters of scripts without blanks.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut last = None;
    for (symbol, _) in graphemes_with_breaks(text) {
        let kind = match symbol.chars().next() {
            Some(c) if c.is_whitespace() => Kind::Blank,
            Some(c) if c.is_alphanumeric() && width(&symbol) == 1 => Kind::Word,
            _ => Kind::Single,
        };
        match tokens.last_mut() {
            Some(token) if last == Some(kind) && kind != Kind::Single => token.push_str(&symbol),
            _ => tokens.push(symbol),
        }
        last = Some(kind);
    }
    tokens
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    Blank,
    Single,
}

/// Characters with the line breaks that a screen's characters leave out.
fn graphemes_with_breaks(text: &str) -> Vec<(String, usize)> {
    let mut all = Vec::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            all.push(("\n".to_owned(), 0));
        }
        all.extend(graphemes(line));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(parts: &[Part]) -> Vec<&str> {
        parts
            .iter()
            .filter(|p| !p.1)
            .map(|p| p.0.as_str())
            .collect()
    }

    #[test]
    fn words_that_differ_are_told_and_the_texts_stay_whole() {
        let (old, new) = ("Rest at home.\nCall us.", "Rest at the clinic.\nCall us!");
        let (left, right) = words(old, new).unwrap();
        let whole = |parts: &[Part]| parts.iter().map(|p| p.0.as_str()).collect::<String>();
        assert_eq!((whole(&left), whole(&right)), (old.into(), new.into()));
        assert_eq!(changed(&left), ["home", "."]);
        assert_eq!(changed(&right), ["the clinic", "!"]);
    }

    #[test]
    fn scripts_without_blanks_are_compared_by_characters() {
        let (left, right) = words("请多喝热水休息", "请多喝温水休息").unwrap();
        assert_eq!((changed(&left), changed(&right)), (vec!["热"], vec!["温"]));
    }

    #[test]
    fn texts_that_share_next_to_nothing_are_not_compared() {
        assert_eq!(words("one two three four", "five six seven one"), None);
        assert!(words("same", "same").is_some());
    }
}
