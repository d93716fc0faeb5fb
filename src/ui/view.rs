//! The whole screen from the deck's state.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;

use super::app::App;
use super::lang::Lang;
use super::layout::SMALLEST;
use super::theme::{Role, Theme};
use super::{overlays, panes, text};

/// Draws everything into a blank buffer.
pub fn draw(app: &App, theme: &Theme, area: Rect, buf: &mut Buffer) {
    match app.arrangement() {
        None => too_small(app.lang, theme, area, buf),
        Some(arrangement) => {
            panes::header::draw(app, theme, arrangement.header, buf);
            if let Some(row) = arrangement.alert {
                panes::header::alert(app, theme, row, buf);
            }
            for slot in &arrangement.slots {
                panes::draw(app, theme, slot, buf);
            }
            overlays::footer(app, theme, arrangement.footer, buf);
            overlays::draw(app, theme, area, buf);
        }
    }
    finish(theme, area, buf);
}

/// What every screen ends with: only what the terminal can show, and the theme's background.
pub(super) fn finish(theme: &Theme, area: Rect, buf: &mut Buffer) {
    if !theme.glyphs.unicode {
        only_ascii(area, buf);
    }
    if let Some(background) = theme.background() {
        for cell in &mut buf.content {
            if cell.bg == Color::Reset {
                cell.bg = background;
            }
        }
    }
}

pub(super) fn too_small(lang: Lang, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let (columns, rows) = SMALLEST;
    let sentence = lang.too_small(columns, rows, area.width, area.height);
    for (row, line) in text::wrap(&sentence, usize::from(area.width))
        .into_iter()
        .take(usize::from(area.height))
        .enumerate()
    {
        buf.set_string(area.x, area.y + row as u16, line, theme[Role::Text]);
    }
}

/// A run's own words may be anything; a terminal without UTF-8 gets question marks for them.
fn only_ascii(area: Rect, buf: &mut Buffer) {
    for y in area.y..area.bottom() {
        for x in area.x..area.right() {
            if let Some(cell) = buf.cell_mut((x, y))
                && !cell.symbol().is_ascii()
            {
                let columns = text::width(cell.symbol());
                cell.set_symbol("?");
                if columns == 2
                    && let Some(next) = buf.cell_mut((x + 1, y))
                {
                    next.set_symbol("?");
                }
            }
        }
    }
}
