//! Samples that are pictures: what the bare base or another step drew beside what the adapter draws,
//! as large as all prompts have room for.

use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::samples;
use crate::protocol::{PictureSource, SampleText};
use crate::ui::app::{App, Wanted};
use crate::ui::picture;
use crate::ui::text::{self, pad, truncate, wrap};
use crate::ui::theme::{Role, Theme};

/// Rows above a picture: the prompt, and what drew it.
const HEAD_ROWS: usize = 2;
/// Between the two pictures of a prompt, and between prompts.
const GAP: usize = 1;
const BETWEEN: usize = 3;
/// Rows below which a picture shows nothing: then the pane scrolls instead.
const LEAST_ROWS: usize = 6;

/// How the prompts lie in the pane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    /// Prompts beside one another.
    across: usize,
    /// Cells of a picture at most.
    columns: usize,
    rows: usize,
}

impl Grid {
    /// That which gives `prompts` pairs of pictures the most room.
    fn new(prompts: usize, area: Rect) -> Grid {
        let (columns, height) = (usize::from(area.width), usize::from(area.height));
        // A square is twice as many cells wide as high.
        let grid = |across: usize, rows: usize| {
            let tile = (columns + BETWEEN).saturating_sub(BETWEEN * across) / across;
            let widest = (tile.saturating_sub(GAP) / 2).max(1);
            let rows = rows.min(widest.div_ceil(2)).max(1);
            Grid {
                across,
                columns: widest.min(2 * rows),
                rows,
            }
        };
        let whole = |across: usize| {
            let down = prompts.div_ceil(across);
            // A row stays empty between one row of prompts and the next.
            grid(across, ((height + 1) / down).saturating_sub(HEAD_ROWS + 1))
        };
        let best = (1..=prompts.max(1))
            .map(whole)
            .max_by_key(|grid| (grid.rows, std::cmp::Reverse(grid.across)));
        match best.filter(|grid| grid.rows >= LEAST_ROWS) {
            Some(grid) => grid,
            // Not all fit: as many as there are beside one another in the pane's own height.
            None => {
                let rows = height.saturating_sub(HEAD_ROWS).clamp(1, 2 * LEAST_ROWS);
                let tile = 2 * (2 * rows) + GAP + BETWEEN;
                let across = ((columns + BETWEEN) / tile).clamp(1, prompts.max(1));
                grid(across, rows)
            }
        }
    }

    fn tile(self) -> usize {
        2 * self.columns + GAP
    }

    /// Rows from one prompt to the one below.
    fn stride(self) -> usize {
        HEAD_ROWS + self.rows + 1
    }

    fn cells(self) -> Rect {
        Rect::new(0, 0, self.columns as u16, self.rows as u16)
    }

    fn wanted(self, file: &str) -> Wanted {
        let file = file.to_owned();
        (
            PictureSource::Sample { file },
            picture::pixels(self.cells()),
        )
    }
}

/// One of a prompt's pictures.
struct Shown<'a> {
    head: String,
    role: Role,
    /// `None`: why there is none stands in `instead`.
    file: Option<&'a str>,
    instead: &'static str,
}

/// What is compared, the older first; one where the bare base is all there is.
fn pair<'a>(app: &'a App, step: u64, sample: &'a SampleText) -> Vec<Shown<'a>> {
    let lang = app.lang;
    let at = |step| lang.step_at(text::count(step));
    let new = |head| Shown {
        head,
        role: Role::Accent,
        file: sample.image.as_deref(),
        instead: lang.no_picture(),
    };
    let old = |head, file, instead| Shown {
        head,
        role: Role::Muted,
        file,
        instead,
    };
    if let Some(against) = app.view.sample_against {
        let there = app
            .state
            .samples
            .iter()
            .find(|s| s.step == against && s.sample.prompt == sample.prompt);
        let instead = match there {
            Some(_) => lang.no_picture(),
            None => lang.not_sampled_then(),
        };
        let file = there.and_then(|s| s.sample.image.as_deref());
        return vec![old(at(against), file, instead), new(at(step))];
    }
    let base = lang.bare_base().to_owned();
    match &sample.base_image {
        Some(file) => vec![
            old(base, Some(file), ""),
            new(lang.with_adapter().to_owned()),
        ],
        // A new adapter changes nothing: the picture is the base's.
        None if step == 0 => vec![new(base)],
        None => vec![
            old(base, None, lang.no_picture()),
            new(lang.with_adapter().to_owned()),
        ],
    }
}

/// The options of a prompt's line are not its words: `--d 42` and the like.
fn words_and_options(prompt: &str) -> (&str, &str) {
    match prompt.find(" --") {
        Some(at) => (prompt[..at].trim(), prompt[at..].trim()),
        None => (prompt.trim(), ""),
    }
}

/// The seed that a prompt's line names, else the run's.
fn seed(app: &App, options: &str) -> Option<String> {
    let named = options
        .split("--")
        .filter_map(|option| option.trim().strip_prefix("d "))
        .last()
        .map(|value| value.trim().to_owned());
    named.or_else(|| {
        let entry = app.state.config.iter().find(|e| e.key == "seed");
        entry.map(|e| e.value.clone())
    })
}

/// Pictures of the prompts that show.
pub(super) fn wanted(app: &App, samples: &[&SampleText], area: Rect) -> Vec<Wanted> {
    let Some(step) = samples::step(app) else {
        return Vec::new();
    };
    let grid = Grid::new(samples.len(), area);
    let scroll = app.view.scroll(crate::ui::layout::Pane::Samples);
    let first = scroll / grid.stride() * grid.across;
    let last = (scroll + usize::from(area.height)).div_ceil(grid.stride()) * grid.across;
    let shown = samples.iter().take(last).skip(first);
    shown
        .flat_map(|sample| pair(app, step, sample))
        .filter_map(|shown| Some(grid.wanted(shown.file?)))
        .collect()
}

pub(super) fn lines(
    app: &App,
    theme: &Theme,
    samples: &[&SampleText],
    area: Rect,
) -> Vec<Line<'static>> {
    let Some(step) = samples::step(app) else {
        return Vec::new();
    };
    let grid = Grid::new(samples.len(), area);
    let mut lines: Vec<Line> = Vec::new();
    for row in samples.chunks(grid.across) {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        let mut beside: Vec<Vec<Span>> = vec![Vec::new(); HEAD_ROWS + grid.rows];
        for (place, sample) in row.iter().enumerate() {
            let tile = tile(app, theme, grid, step, sample);
            for (line, spans) in beside.iter_mut().zip(tile) {
                if place > 0 {
                    line.push(Span::raw(" ".repeat(BETWEEN)));
                }
                line.extend(spans);
            }
        }
        lines.extend(beside.into_iter().map(Line::from));
    }
    lines
}

/// A prompt with its pictures: rows of exactly `grid.tile()` columns.
fn tile(
    app: &App,
    theme: &Theme,
    grid: Grid,
    step: u64,
    sample: &SampleText,
) -> Vec<Vec<Span<'static>>> {
    let pictures = pair(app, step, sample);
    let (words, options) = words_and_options(&sample.prompt);
    let mut rows = vec![Vec::new(); HEAD_ROWS + grid.rows];
    rows[0] = vec![Span::styled(
        format!("{} ", theme.glyphs.right),
        theme[Role::Accent],
    )];
    let ellipsis = theme.glyphs.ellipsis;
    let room = grid.tile().saturating_sub(2);
    let words = truncate(words, room, ellipsis);
    let left = room - text::width(&words);
    rows[0].push(Span::styled(words, theme[Role::Title]));
    let options = match left {
        // Nothing that could be read.
        ..8 => String::new(),
        left => truncate(&format!(" {options}"), left, ellipsis),
    };
    let options = pad(&options, left);
    rows[0].push(Span::styled(options, theme[Role::Muted]));
    let last = pictures.len() - 1;
    for (place, shown) in pictures.iter().enumerate() {
        let seed = seed(app, words_and_options(&sample.prompt).1);
        let told = seed.filter(|_| place == last);
        let told = told.map_or_else(String::new, |seed| format!("  {}", app.lang.seed(seed)));
        let head = truncate(&shown.head, grid.columns, ellipsis);
        let rest = grid.columns - text::width(&head);
        let told = match text::width(&told) > rest {
            true => String::new(),
            false => told,
        };
        rows[1].push(Span::styled(head, theme[shown.role]));
        rows[1].push(Span::styled(pad(&told, rest), theme[Role::Muted]));
        for (row, spans) in rows[HEAD_ROWS..]
            .iter_mut()
            .zip(drawn(app, theme, grid, shown))
        {
            row.extend(spans);
        }
        if place < last {
            for row in &mut rows[1..] {
                row.push(Span::raw(" ".repeat(GAP)));
            }
        }
    }
    if last == 0 {
        for row in &mut rows[1..] {
            row.push(Span::raw(" ".repeat(GAP + grid.columns)));
        }
    }
    rows
}

/// A picture, or why it does not show: as many rows as the grid has, each of its columns.
fn drawn(app: &App, theme: &Theme, grid: Grid, shown: &Shown) -> Vec<Vec<Span<'static>>> {
    let instead = |why: &str| -> Vec<Vec<Span<'static>>> {
        let lines = wrap(why, grid.columns).into_iter().take(grid.rows);
        lines
            .map(|line| vec![Span::styled(pad(&line, grid.columns), theme[Role::Faint])])
            .collect()
    };
    let mut rows = match shown.file {
        None => instead(shown.instead),
        Some(file) => {
            let (source, size) = grid.wanted(file);
            match app.pictures.get(&source, size) {
                Some(Ok(picture)) => {
                    let of = (u32::from(picture.width), u32::from(picture.height));
                    let cells = picture::fitted(of, grid.cells());
                    let right = grid.columns - usize::from(cells.width);
                    let lines = picture::lines(picture, theme, cells.width, cells.height);
                    let padded = lines.into_iter().map(|line| {
                        let mut spans = line.spans;
                        spans.push(Span::raw(" ".repeat(right)));
                        spans
                    });
                    padded.collect()
                }
                Some(Err(why)) if !why.is_empty() => instead(why),
                _ => instead(&format!(
                    "{}{}",
                    app.lang.fetching_picture(),
                    theme.glyphs.ellipsis
                )),
            }
        }
    };
    rows.resize(grid.rows, vec![Span::raw(" ".repeat(grid.columns))]);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(prompts: usize, columns: u16, rows: u16) -> (usize, usize, usize) {
        let grid = Grid::new(prompts, Rect::new(0, 0, columns, rows));
        assert!(grid.across * grid.tile() + BETWEEN * (grid.across - 1) <= usize::from(columns));
        (grid.across, grid.columns, grid.rows)
    }

    #[test]
    fn pictures_are_as_large_as_all_prompts_have_room_for() {
        assert_eq!(grid(1, 198, 57), (1, 98, 49));
        assert_eq!(grid(2, 198, 57), (1, 52, 26));
        assert_eq!(grid(3, 118, 36), (2, 28, 14));
        assert_eq!(grid(1, 60, 12), (1, 20, 10));
        // Too many: they keep a size in which they can be seen, and the pane scrolls.
        assert_eq!(grid(40, 78, 20), (1, 24, 12));
        assert_eq!(grid(3, 38, 9), (1, 14, 7));
    }

    #[test]
    fn a_prompt_s_options_are_told_apart_from_its_words() {
        assert_eq!(
            words_and_options("a fox, red --d 7 --w 64"),
            ("a fox, red", "--d 7 --w 64")
        );
        assert_eq!(
            words_and_options("a well--known fox"),
            ("a well--known fox", "")
        );
    }
}
