//! Text for the screen: numbers for people, and strings measured in columns.

use ratatui::style::Style;
use ratatui::text::Span;
use unicode_width::UnicodeWidthStr;

use crate::printable::is_harmless;

/// Columns a string takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The string's user-perceived characters with their columns; control characters are left out.
pub(super) fn graphemes(text: &str) -> Vec<(String, usize)> {
    Span::raw(text)
        .styled_graphemes(Style::default())
        .map(|g| (g.symbol.to_owned(), g.symbol.width()))
        .collect()
}

/// The string in at most `columns` columns; `ellipsis` ends one that was cut.
pub fn truncate(text: &str, columns: usize, ellipsis: &str) -> String {
    let text = one_line(text);
    if width(&text) <= columns {
        return text;
    }
    let room = columns.saturating_sub(width(ellipsis));
    let mut out = String::new();
    let mut used = 0;
    for (symbol, columns) in graphemes(&text) {
        if used + columns > room {
            break;
        }
        used += columns;
        out.push_str(&symbol);
    }
    if columns >= width(ellipsis) {
        out.push_str(ellipsis);
    }
    out
}

/// Like [`truncate`], but the beginning is cut: for paths, whose end tells more.
pub fn truncate_start(text: &str, columns: usize, ellipsis: &str) -> String {
    let text = one_line(text);
    if width(&text) <= columns {
        return text;
    }
    let room = columns.saturating_sub(width(ellipsis));
    let mut kept = Vec::new();
    let mut used = 0;
    for (symbol, columns) in graphemes(&text).into_iter().rev() {
        if used + columns > room {
            break;
        }
        used += columns;
        kept.push(symbol);
    }
    kept.reverse();
    let ellipsis = if columns >= width(ellipsis) {
        ellipsis
    } else {
        ""
    };
    format!("{ellipsis}{}", kept.concat())
}

/// Padded with spaces to `columns`.
pub fn pad(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(missing))
}

/// Line breaks and tabs as spaces, other control characters left out: nothing a model or a file
/// says may move the cursor.
pub fn one_line(text: &str) -> String {
    text.chars()
        .filter_map(|c| match c {
            '\n' | '\t' | '\r' => Some(' '),
            c => is_harmless(c).then_some(c),
        })
        .collect()
}

/// A piece of text with a style of its own.
pub type Piece = (String, Style);

/// Breaks text at spaces (and inside words longer than a line) into lines of `columns`.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    wrap_pieces(&[(text.to_owned(), Style::default())], columns)
        .into_iter()
        .map(|line| line.into_iter().map(|(text, _)| text).collect())
        .collect()
}

/// [`wrap`] for text in several styles: one list of pieces a line.
pub fn wrap_pieces(pieces: &[Piece], columns: usize) -> Vec<Vec<Piece>> {
    let columns = columns.max(1);
    let mut lines: Vec<Vec<(String, usize, Style)>> = vec![Vec::new()];
    let mut used = 0;
    for (text, style) in pieces {
        let text = text.replace("\r\n", "\n").replace('\t', "    ");
        for (i, paragraph) in text.split('\n').enumerate() {
            if i > 0 {
                lines.push(Vec::new());
                used = 0;
            }
            for (symbol, w) in graphemes(paragraph) {
                if used + w > columns {
                    let line = lines.last_mut().expect("there is always a line");
                    // The word in progress moves down with the break, unless it fills the line.
                    // Wide characters are words of their own.
                    let end = line.iter().rposition(|(s, w, _)| s == " " || *w > 1);
                    let moved = match end {
                        _ if symbol == " " || w > 1 => Vec::new(),
                        Some(at) => line.split_off(at + 1),
                        None => Vec::new(),
                    };
                    used = moved.iter().map(|(_, w, _)| w).sum();
                    lines.push(moved);
                    if symbol == " " {
                        continue;
                    }
                }
                used += w;
                lines
                    .last_mut()
                    .expect("there is always a line")
                    .push((symbol, w, *style));
            }
        }
    }
    lines
        .into_iter()
        .map(|line| {
            let mut out: Vec<Piece> = Vec::new();
            for (symbol, _, style) in line {
                match out.last_mut() {
                    Some((text, last)) if *last == style => text.push_str(&symbol),
                    _ => out.push((symbol, style)),
                }
            }
            out
        })
        .collect()
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Three digits and a letter: `1.23k`, `45.6M`, `135M`, `7.00B`.
pub fn short(n: f64) -> String {
    if !n.is_finite() {
        return number(n);
    }
    let (value, unit) = match n.abs() {
        a if a >= 999.5e6 => (n / 1e9, "B"),
        a if a >= 999.5e3 => (n / 1e6, "M"),
        a if a >= 999.5 => (n / 1e3, "k"),
        _ => {
            return if n.fract() == 0.0 {
                format!("{n:.0}")
            } else {
                format!("{n:.1}")
            };
        }
    };
    format!("{}{unit}", three_digits(value))
}

/// `512 MiB`, `7.81 GiB`.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 999.5 {
            return if unit == "B" {
                format!("{n} B")
            } else {
                format!("{} {unit}", three_digits(value))
            };
        }
        value /= 1024.0;
    }
    format!("{} TiB", three_digits(value))
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        a if a >= 99.95 => format!("{value:.0}"),
        a if a >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A loss or a norm: four decimals, fewer when it is large, scientific when it is tiny.
pub fn number(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.into();
    }
    match value.abs() {
        0.0 => "0".into(),
        a if !(0.001..99_999.5).contains(&a) => scientific(value),
        a if a >= 99.995 => format!("{value:.1}"),
        a if a >= 9.9995 => format!("{value:.2}"),
        a if a >= 0.9995 => format!("{value:.3}"),
        _ => format!("{value:.4}"),
    }
}

/// A learning rate: `2.00e-4`.
pub fn scientific(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return number(value);
    }
    format!("{value:.2e}")
}

/// Time since the start, as a clock: `0:07`, `12:34`, `3:12:34`.
pub fn clock(seconds: f64) -> String {
    let s = if seconds.is_finite() {
        seconds.max(0.0) as u64
    } else {
        0
    };
    if s < 3600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

/// The last part of a path.
pub fn file_name(path: &str) -> &str {
    path.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_characters_count_as_two_columns_when_cut() {
        assert_eq!(truncate("模型训练完成", 7, "…"), "模型训…");
        assert_eq!(truncate("模型训练完成", 6, "…"), "模型…");
        assert_eq!(truncate_start("/数据/训练集", 7, "…"), "…训练集");
        assert_eq!(truncate("👩‍⚕️ doctor", 9, "…"), "👩‍⚕️ doctor");
        assert_eq!(truncate("abc", 0, "…"), "");
    }

    #[test]
    fn nothing_a_model_says_moves_the_cursor() {
        assert_eq!(one_line("a\x1b[2Jb\nc\x07"), "a[2Jb c");
        assert_eq!(wrap("a\x1b[31mb", 20), ["a[31mb"]);
    }

    #[test]
    fn lines_break_at_spaces_and_inside_words_that_are_too_long() {
        assert_eq!(wrap("the quick brown fox", 10), ["the quick ", "brown fox"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("一二三四五", 4), ["一二", "三四", "五"]);
        assert_eq!(wrap("a 一二三bc", 8), ["a 一二三", "bc"]);
        assert_eq!(wrap("a\n\nb", 4), ["a", "", "b"]);
        for line in wrap("a 很长的 sentence with 宽字符 in it, over and over", 9) {
            assert!(width(line.trim_end()) <= 9, "{line:?}");
        }
    }

    #[test]
    fn numbers_are_short_and_never_lie() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(short(999.0), "999");
        assert_eq!(short(999.9), "1.00k");
        assert_eq!(short(134_515_008.0), "135M");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(8 << 30), "8.00 GiB");
        assert_eq!(number(1.23456), "1.235");
        assert_eq!(number(0.1234567), "0.1235");
        assert_eq!(number(f64::NAN), "NaN");
        assert_eq!(scientific(2e-4), "2.00e-4");
        assert_eq!(clock(3754.0), "1:02:34");
    }
}
