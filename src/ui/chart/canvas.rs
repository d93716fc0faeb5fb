//! A grid of dots: two by four in a cell as braille, one by two in ASCII.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

/// Dots to be drawn in one style.
#[derive(Debug)]
pub struct Canvas {
    columns: usize,
    rows: usize,
    braille: bool,
    cells: Vec<u8>,
}

impl Canvas {
    pub fn new(area: Rect, braille: bool) -> Canvas {
        let (columns, rows) = (usize::from(area.width), usize::from(area.height));
        Canvas {
            columns,
            rows,
            braille,
            cells: vec![0; columns * rows],
        }
    }

    /// Dots in a cell: across, down.
    fn per_cell(&self) -> (usize, usize) {
        if self.braille { (2, 4) } else { (1, 2) }
    }

    /// Dots across.
    pub fn width(&self) -> usize {
        self.columns * self.per_cell().0
    }

    /// Dots down.
    pub fn height(&self) -> usize {
        self.rows * self.per_cell().1
    }

    /// Sets a dot; (0, 0) is at the top left.
    pub fn dot(&mut self, x: usize, y: usize) {
        if x >= self.width() || y >= self.height() {
            return;
        }
        let (across, down) = self.per_cell();
        let bit = match (x % across, y % down) {
            (column, row) if !self.braille => 1 << (row + column),
            (0, row @ 0..3) => 1 << row,
            (_, row @ 0..3) => 8 << row,
            (0, _) => 0x40,
            _ => 0x80,
        };
        self.cells[y / down * self.columns + x / across] |= bit;
    }

    pub fn line(&mut self, from: (usize, usize), to: (usize, usize)) {
        let (x0, y0) = (from.0 as f64, from.1 as f64);
        let (dx, dy) = (to.0 as f64 - x0, to.1 as f64 - y0);
        let n = dx.abs().max(dy.abs()).max(1.0);
        for i in 0..=n as usize {
            let t = i as f64 / n;
            self.dot(
                (x0 + t * dx).round() as usize,
                (y0 + t * dy).round() as usize,
            );
        }
    }

    /// Draws the cells that have dots over what is there. In ASCII a `heavy` line is told from a
    /// light one by its characters.
    pub fn blit(&self, buf: &mut Buffer, area: Rect, style: Style, heavy: bool) {
        for row in 0..self.rows {
            for column in 0..self.columns {
                let bits = self.cells[row * self.columns + column];
                if bits == 0 {
                    continue;
                }
                let symbol = if self.braille {
                    char::from_u32(0x2800 + u32::from(bits)).unwrap_or('?')
                } else {
                    match (bits, heavy) {
                        (_, true) => '*',
                        (1, _) => '\'',
                        (2, _) => '.',
                        _ => ':',
                    }
                };
                let at = (area.x + column as u16, area.y + row as u16);
                if let Some(cell) = buf.cell_mut(at) {
                    cell.reset();
                    cell.set_char(symbol).set_style(style);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(braille: bool, dots: &[(usize, usize)]) -> String {
        let area = Rect::new(0, 0, 2, 1);
        let mut canvas = Canvas::new(area, braille);
        for &(x, y) in dots {
            canvas.dot(x, y);
        }
        let mut buf = Buffer::empty(area);
        canvas.blit(&mut buf, area, Style::new(), false);
        buf.content().iter().map(|c| c.symbol()).collect()
    }

    #[test]
    fn dots_land_where_braille_has_them() {
        assert_eq!(drawn(true, &[(0, 0), (1, 0)]), "⠉ ");
        assert_eq!(drawn(true, &[(0, 3), (1, 3), (2, 0)]), "⣀⠁");
        assert_eq!(drawn(true, &[(9, 9)]), "  ");
        assert_eq!(drawn(false, &[(0, 0), (1, 1)]), "'.");
    }
}
