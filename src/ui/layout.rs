//! Where the panes lie, from a wall of a screen down to 40x12.

use ratatui::layout::Rect;

use super::lang::Lang;
use super::text::width;

/// Smallest screen the deck draws on.
pub const SMALLEST: (u16, u16) = (40, 12);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pane {
    Loss,
    Rate,
    Gpu,
    Host,
    Config,
    Data,
    Samples,
    Checkpoints,
    Log,
}

impl Pane {
    /// In the order of their number keys.
    pub const ALL: [Pane; 9] = [
        Pane::Loss,
        Pane::Rate,
        Pane::Gpu,
        Pane::Host,
        Pane::Config,
        Pane::Data,
        Pane::Samples,
        Pane::Checkpoints,
        Pane::Log,
    ];

    /// Its number key.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    pub fn title(self, lang: Lang) -> &'static str {
        match self {
            Pane::Loss => lang.pane_loss(),
            Pane::Rate => lang.pane_rate(),
            Pane::Gpu => lang.pane_gpu(),
            Pane::Host => lang.pane_host(),
            Pane::Config => lang.pane_config(),
            Pane::Data => lang.pane_data(),
            Pane::Samples => lang.pane_samples(),
            Pane::Checkpoints => lang.pane_checkpoints(),
            Pane::Log => lang.pane_log(),
        }
    }

    /// For a row of tabs.
    fn short_title(self, lang: Lang) -> &'static str {
        match self {
            Pane::Rate => lang.pane_rate_short(),
            Pane::Checkpoints => lang.pane_checkpoints_short(),
            pane => pane.title(lang),
        }
    }
}

/// A place on the screen, shared by panes that show one at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// With its title row.
    pub area: Rect,
    pub panes: Vec<Pane>,
    /// The one that shows.
    pub active: Pane,
}

impl Slot {
    /// Below the title row, with a margin of one column on either side.
    pub fn inner(&self) -> Rect {
        Rect {
            x: self.area.x + 1,
            y: self.area.y + 1,
            width: self.area.width.saturating_sub(2),
            height: self.area.height.saturating_sub(1),
        }
    }

    /// Labels of the title row with the columns they begin at: `1 loss`. Where there is no room
    /// for all, those that do not show are numbers only.
    pub fn tabs(&self, lang: Lang) -> Vec<(Pane, u16, String)> {
        let room = usize::from(self.area.width.saturating_sub(4));
        let long = |p: &Pane| format!("{} {}", p.number(), p.title(lang));
        let short = |p: &Pane| format!("{} {}", p.number(), p.short_title(lang));
        let least = |p: &Pane| {
            if *p == self.active {
                long(p)
            } else {
                p.number().to_string()
            }
        };
        let fits =
            |labels: &[String]| labels.iter().map(|l| width(l) + 3).sum::<usize>() <= room + 1;
        let mut gap = 3;
        let mut labels: Vec<String> = self.panes.iter().map(long).collect();
        if !fits(&labels) {
            labels = self.panes.iter().map(short).collect();
        }
        if !fits(&labels) {
            labels = self.panes.iter().map(least).collect();
            gap = 1;
        }
        let mut x = self.area.x + 3;
        self.panes
            .iter()
            .zip(labels)
            .map(|(pane, label)| {
                let at = x;
                x += width(&label) as u16 + gap;
                (*pane, at, label)
            })
            .collect()
    }
}

/// The whole screen.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrangement {
    pub header: Rect,
    /// Where an alert shows, while there is one.
    pub alert: Option<Rect>,
    pub slots: Vec<Slot>,
    pub footer: Rect,
}

impl Arrangement {
    /// Where a pane shows, if it does.
    pub fn slot_of(&self, pane: Pane) -> Option<&Slot> {
        self.slots.iter().find(|s| s.active == pane)
    }

    /// The slot at a position.
    pub fn slot_at(&self, column: u16, row: u16) -> Option<&Slot> {
        self.slots
            .iter()
            .find(|s| s.area.contains((column, row).into()))
    }
}

/// Lays out the screen; `None` when it is too small. `recent` lists panes, the one with the focus
/// first: of panes that share a place the most recent shows. An alert has a row of its own.
pub fn arrange(
    size: (u16, u16),
    recent: &[Pane],
    maximised: bool,
    alert: bool,
) -> Option<Arrangement> {
    let (columns, rows) = size;
    if columns < SMALLEST.0 || rows < SMALLEST.1 {
        return None;
    }
    let header_rows = match (columns, rows) {
        (c, r) if c >= 100 && r >= 30 => 4,
        (c, r) if c >= 60 && r >= 18 => 3,
        _ => 2,
    };
    let header = Rect::new(0, 0, columns, header_rows);
    let footer = Rect::new(0, rows - 1, columns, 1);
    // The largest header leaves its last row blank.
    let alert_row = if header_rows == 4 { 3 } else { header_rows };
    let alert = alert.then(|| Rect::new(0, alert_row, columns, 1));
    let top = header_rows.max(alert.map_or(0, |a| a.bottom()));
    let body = Rect::new(0, top, columns, rows - top - 1);
    let focus = recent.first().copied().unwrap_or(Pane::Loss);

    let mut slots = Vec::new();
    let mut slot = |area: Rect, panes: &[Pane]| {
        let active = recent
            .iter()
            .find(|p| panes.contains(p))
            .copied()
            .unwrap_or(panes[0]);
        slots.push(Slot {
            area,
            panes: panes.to_vec(),
            active,
        });
    };

    if maximised {
        slot(body, &[focus]);
    } else if columns >= 160 && rows >= 48 {
        let (left, right) = side_by_side(body, 58);
        let [loss, rate, samples] = stack(left, [46, 20, 34]);
        slot(loss, &[Pane::Loss]);
        slot(rate, &[Pane::Rate]);
        slot(samples, &[Pane::Samples]);
        let [machine, config, data, saves, log] = stack(right, [18, 25, 21, 13, 23]);
        let (gpu, host) = side_by_side(machine, 50);
        slot(gpu, &[Pane::Gpu]);
        slot(host, &[Pane::Host]);
        slot(config, &[Pane::Config]);
        slot(data, &[Pane::Data]);
        slot(saves, &[Pane::Checkpoints]);
        slot(log, &[Pane::Log]);
    } else if columns >= 100 && rows >= 30 {
        let (left, right) = side_by_side(body, 60);
        let [loss, tabs] = stack(left, [56, 44]);
        slot(loss, &[Pane::Loss]);
        slot(tabs, &[Pane::Samples, Pane::Rate, Pane::Config, Pane::Data]);
        let [gpu, host, saves, log] = stack(right, [24, 22, 22, 32]);
        slot(gpu, &[Pane::Gpu]);
        slot(host, &[Pane::Host]);
        slot(saves, &[Pane::Checkpoints]);
        slot(log, &[Pane::Log]);
    } else if columns >= 60 && rows >= 18 {
        let [loss, tabs] = stack(body, [52, 48]);
        slot(loss, &[Pane::Loss]);
        slot(
            tabs,
            &[
                Pane::Log,
                Pane::Rate,
                Pane::Gpu,
                Pane::Host,
                Pane::Config,
                Pane::Data,
                Pane::Samples,
                Pane::Checkpoints,
            ],
        );
    } else {
        slot(body, &Pane::ALL);
    }
    for slot in &mut slots {
        slot.panes.sort();
    }
    Some(Arrangement {
        header,
        alert,
        slots,
        footer,
    })
}

/// Left with `percent` of the columns, right with the rest.
fn side_by_side(area: Rect, percent: u16) -> (Rect, Rect) {
    let left = (u32::from(area.width) * u32::from(percent) / 100) as u16;
    (
        Rect {
            width: left,
            ..area
        },
        Rect {
            x: area.x + left,
            width: area.width - left,
            ..area
        },
    )
}

/// Rows shared out by percent; the last gets what is left.
fn stack<const N: usize>(area: Rect, percent: [u16; N]) -> [Rect; N] {
    let mut y = area.y;
    let mut i = 0;
    percent.map(|p| {
        i += 1;
        let left = area.bottom() - y;
        let height = if i == N {
            left
        } else {
            ((u32::from(area.height) * u32::from(p) + 50) / 100) as u16
        };
        let rect = Rect {
            y,
            height: height.min(left),
            ..area
        };
        y += rect.height;
        rect
    })
}

/// The pane next to `from` in a direction (columns, rows), of those that show.
pub fn neighbour(arrangement: &Arrangement, from: Pane, direction: (i32, i32)) -> Option<Pane> {
    let centre = |r: Rect| {
        (
            i32::from(r.x) * 2 + i32::from(r.width),
            // Cells are twice as high as wide.
            (i32::from(r.y) * 2 + i32::from(r.height)) * 2,
        )
    };
    let here = arrangement.slot_of(from)?.area;
    let (hx, hy) = centre(here);
    arrangement
        .slots
        .iter()
        .filter(|s| match direction {
            (1, _) => s.area.x >= here.right(),
            (-1, _) => s.area.right() <= here.x,
            (_, 1) => s.area.y >= here.bottom() && overlap(s.area, here),
            _ => s.area.bottom() <= here.y && overlap(s.area, here),
        })
        .min_by_key(|s| {
            let (x, y) = centre(s.area);
            (x - hx).abs() + (y - hy).abs()
        })
        .map(|s| s.active)
}

fn overlap(a: Rect, b: Rect) -> bool {
    a.x < b.right() && b.x < a.right()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_is_covered_without_gap_or_overlap() {
        for columns in SMALLEST.0..=300 {
            for rows in SMALLEST.1..=100 {
                for (maximised, alert) in [(false, false), (true, false), (false, true)] {
                    let a = arrange((columns, rows), &[Pane::Log], maximised, alert).unwrap();
                    let alert = a.alert.filter(|r| r.y >= a.header.bottom());
                    let cells: u32 = a.slots.iter().map(|s| s.area.area()).sum::<u32>()
                        + a.header.area()
                        + a.footer.area()
                        + alert.map_or(0, Rect::area);
                    assert_eq!(cells, u32::from(columns) * u32::from(rows));
                    for slot in &a.slots {
                        assert!(slot.area.height >= 3, "{columns}x{rows}: {slot:?}");
                        assert!(slot.area.right() <= columns && slot.area.bottom() < rows);
                    }
                }
            }
        }
        assert!(arrange((39, 12), &[], false, false).is_none());
    }

    #[test]
    fn every_pane_can_be_shown_at_every_size() {
        for size in [(40, 12), (80, 24), (120, 40), (200, 60), (300, 100)] {
            for pane in Pane::ALL {
                let a = arrange(size, &[pane], false, false).unwrap();
                assert!(a.slot_of(pane).is_some(), "{pane:?} at {size:?}");
                let slot = a.slot_of(pane).unwrap();
                let (_, x, label) = slot.tabs(Lang::English).pop().unwrap();
                assert!(x + width(&label) as u16 <= slot.area.right());
            }
        }
    }

    #[test]
    fn focus_moves_to_the_pane_that_lies_that_way() {
        let a = arrange((200, 60), &[Pane::Loss], false, false).unwrap();
        assert_eq!(neighbour(&a, Pane::Loss, (0, 1)), Some(Pane::Rate));
        assert_eq!(neighbour(&a, Pane::Gpu, (1, 0)), Some(Pane::Host));
        assert_eq!(neighbour(&a, Pane::Log, (-1, 0)), Some(Pane::Samples));
        assert_eq!(neighbour(&a, Pane::Loss, (-1, 0)), None);
    }
}
