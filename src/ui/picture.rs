//! A picture in the cells of a terminal: the half block `▀` shows two pixels, one above the other.
//! Every terminal with colours can do it, and none is asked for anything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};

use super::theme::{ColorDepth, Theme, quantise};

/// From dark to light, for terminals without colours or without `▀`.
const RAMP: [&str; 10] = [" ", ".", ":", "-", "=", "+", "*", "#", "%", "@"];

/// Rows of pixels, three bytes each.
#[derive(Clone, PartialEq)]
pub struct Picture {
    pub width: u16,
    pub height: u16,
    rgb: Vec<u8>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{})", self.width, self.height)
    }
}

impl Picture {
    /// As it travels; `None` where the bytes do not fit the size.
    pub fn decode(width: u16, height: u16, rgb: &str) -> Option<Picture> {
        let rgb = STANDARD.decode(rgb).ok()?;
        let fits = rgb.len() == usize::from(width) * usize::from(height) * 3;
        (fits && width > 0 && height > 0).then_some(Picture { width, height, rgb })
    }

    /// The pixel at a place of the picture stretched over `columns` by `rows` pixels.
    fn at(&self, x: u16, y: u16, columns: u16, rows: u16) -> [u8; 3] {
        let scaled = |at: u16, of: u16, to: u16| {
            let at = (u32::from(at) * 2 + 1) * u32::from(to) / (2 * u32::from(of.max(1)));
            at.min(u32::from(to) - 1) as usize
        };
        let at =
            scaled(y, rows, self.height) * usize::from(self.width) + scaled(x, columns, self.width);
        [self.rgb[at * 3], self.rgb[at * 3 + 1], self.rgb[at * 3 + 2]]
    }
}

/// Pixels that fit into an area of cells: what to ask a run for.
pub fn pixels(area: Rect) -> (u16, u16) {
    (area.width, area.height.saturating_mul(2))
}

/// Cells that a picture of this many pixels takes in an area, its shape kept.
pub fn fitted(size: (u32, u32), area: Rect) -> Rect {
    let (width, height) = (f64::from(size.0.max(1)), f64::from(size.1.max(1)));
    let scale = (f64::from(area.width) / width).min(f64::from(area.height) * 2.0 / height);
    let columns = ((width * scale).round() as u16).clamp(1, area.width.max(1));
    let rows = ((height * scale / 2.0).ceil() as u16).clamp(1, area.height.max(1));
    Rect {
        width: columns.min(area.width),
        height: rows.min(area.height),
        ..area
    }
}

/// The picture as lines of so many cells.
pub fn lines(picture: &Picture, theme: &Theme, columns: u16, rows: u16) -> Vec<Line<'static>> {
    let blocks = theme.glyphs.unicode && theme.depth != ColorDepth::None;
    let cell = |x: u16, y: u16| {
        let pixel = |half: u16| picture.at(x, y * 2 + half, columns, rows * 2);
        let (above, below) = (pixel(0), pixel(1));
        if blocks {
            let color = |[r, g, b]: [u8; 3]| quantise(Color::Rgb(r, g, b), theme.depth);
            return Span::styled("▀", Style::new().fg(color(above)).bg(color(below)));
        }
        let light: u32 = above.iter().chain(&below).map(|c| u32::from(*c)).sum();
        let step = light as usize * (RAMP.len() - 1) / (6 * 255);
        Span::raw(RAMP[step])
    };
    (0..rows)
        .map(|y| Line::from((0..columns).map(|x| cell(x, y)).collect::<Vec<_>>()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_keeps_its_shape_in_cells_twice_as_high_as_wide() {
        let area = Rect::new(3, 2, 40, 10);
        let size = |w, h| {
            let fitted = fitted((w, h), area);
            (fitted.width, fitted.height)
        };
        assert_eq!(size(512, 512), (20, 10));
        assert_eq!(size(1000, 100), (40, 2));
        assert_eq!(size(10, 1000), (1, 10));
        assert_eq!(size(0, 0), (20, 10));
        assert_eq!(pixels(area), (40, 20));
    }

    #[test]
    fn bytes_that_do_not_fit_their_size_are_no_picture() {
        let bytes = STANDARD.encode([1, 2, 3, 4, 5, 6]);
        let picture = Picture::decode(1, 2, &bytes).unwrap();
        assert_eq!(picture.at(0, 0, 1, 2), [1, 2, 3]);
        assert_eq!(picture.at(5, 3, 6, 4), [4, 5, 6]);
        assert!(Picture::decode(2, 2, &bytes).is_none());
        assert!(Picture::decode(0, 0, "").is_none());
        assert!(Picture::decode(1, 2, "?").is_none());
    }
}
