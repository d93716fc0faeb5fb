//! What the person is looking at.

use crate::ui::layout::Pane;

/// The value of `smoothing` that stands for no average, and the largest.
pub const NO_AVERAGE: i32 = -4;
pub const SMOOTHEST: i32 = 5;

/// Everything that keys change and that the run knows nothing of.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Panes, the one with the focus first, then the ones looked at before.
    pub recent: Vec<Pane>,
    pub maximised: bool,
    /// Lines scrolled past, by pane; the log's count from its end.
    pub scroll: [usize; Pane::ALL.len()],
    /// Texts that lines must contain, by pane.
    pub filters: [String; Pane::ALL.len()],
    /// Halvings of the charts' span.
    pub zoom: u32,
    pub crosshair: Option<u64>,
    /// The last step of charts that were moved by hand and stay there.
    pub pan: Option<f64>,
    /// Doublings of the steps over which the moving average forgets; [`NO_AVERAGE`]: none is drawn.
    pub smoothing: i32,
    pub log_loss: bool,
    pub log_norm: bool,
    /// The step whose samples show; `None`: the newest.
    pub sample_step: Option<u64>,
    /// The step whose samples stand beside them; `None`: the bare base's.
    pub sample_against: Option<u64>,
    /// The value that the config pane has selected, of those that pass the filter.
    pub value: usize,
    /// The record that the data pane shows.
    pub record: usize,
}

impl Default for View {
    fn default() -> Self {
        View {
            recent: vec![Pane::Loss],
            maximised: false,
            scroll: Default::default(),
            filters: Default::default(),
            zoom: 0,
            crosshair: None,
            pan: None,
            smoothing: 0,
            log_loss: false,
            log_norm: false,
            sample_step: None,
            sample_against: None,
            value: 0,
            record: 0,
        }
    }
}

impl View {
    pub fn look_at(&mut self, pane: Pane) {
        self.recent.retain(|p| *p != pane);
        self.recent.insert(0, pane);
    }

    pub fn scroll(&self, pane: Pane) -> usize {
        self.scroll[pane as usize]
    }

    pub fn filter(&self, pane: Pane) -> &str {
        &self.filters[pane as usize]
    }
}
