//! From values to places: windows over the steps and axes with round numbers.

use crate::ui::text;

/// Fewest steps a window spans.
const LEAST_SPAN: f64 = 16.0;

/// The steps a chart shows, `first..=last`. Its ends stay put while steps come in, and jump when
/// the curve reaches them: a window that slides redraws the whole chart with every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    pub first: f64,
    pub last: f64,
}

impl Window {
    /// `step` is the last one there is; `total` the run's, 0 when unknown; every level of `zoom`
    /// halves the span; with a crosshair the window stays around it.
    pub fn new(step: u64, total: u64, zoom: u32, crosshair: Option<u64>) -> Window {
        let step = step as f64;
        let mut whole = step_up(step.max(LEAST_SPAN));
        if total > 0 {
            whole = whole.min((total as f64).max(step).max(1.0));
        }
        if zoom == 0 {
            return Window {
                first: 0.0,
                last: whole,
            };
        }
        let span = (whole / f64::from(1u32 << zoom.min(30)))
            .max(LEAST_SPAN)
            .min(whole);
        let quarter = span / 4.0;
        let end = ((step / quarter).ceil() * quarter).max(span);
        let last = match crosshair {
            Some(at) => {
                let centred = ((at as f64 + span / 2.0) / quarter).ceil() * quarter;
                centred.clamp(span, end)
            }
            None => end,
        };
        Window {
            first: last - span,
            last,
        }
    }

    pub fn span(&self) -> f64 {
        self.last - self.first
    }

    /// Deepest zoom that still changes something.
    pub fn deepest_zoom(step: u64, total: u64) -> u32 {
        let whole = Window::new(step, total, 0, None).span();
        (whole / LEAST_SPAN).log2().ceil().max(0.0) as u32
    }

    /// Which of `n` columns a step falls into; `None` outside.
    pub fn column(&self, step: f64, n: usize) -> Option<usize> {
        if n == 0 || !(self.first..=self.last).contains(&step) || self.span() <= 0.0 {
            return None;
        }
        let at = (step - self.first) / self.span() * n as f64;
        Some((at as usize).min(n - 1))
    }

    /// Round steps to write below the chart, about one every `columns / labels`.
    pub fn ticks(&self, labels: usize) -> Vec<f64> {
        let step = round_step(self.span() / labels.max(1) as f64).max(1.0);
        multiples(self.first, self.last, step)
    }
}

/// The next of 1, 1.5, 2, 3, 4, 6, 8, 12, 16, ...
fn step_up(value: f64) -> f64 {
    let power = 2f64.powf(value.log2().floor());
    [1.0, 1.5, 2.0]
        .into_iter()
        .map(|m| m * power)
        .find(|v| *v >= value)
        .unwrap_or(value)
}

/// The next of 1, 2, 5, 10, ... times a power of ten.
fn round_step(value: f64) -> f64 {
    if !value.is_finite() || value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * power)
        .find(|v| *v >= value * 0.999_999)
        .unwrap_or(power * 10.0)
}

fn multiples(lo: f64, hi: f64, step: f64) -> Vec<f64> {
    let first = (lo / step - 1e-6).ceil() as i64;
    let last = (hi / step + 1e-6).floor() as i64;
    // A guard against a span that rounding has made absurd.
    (first..=last.min(first + 100))
        .map(|i| i as f64 * step)
        .collect()
}

/// A vertical axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    lo: f64,
    hi: f64,
    log: bool,
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Holds `values` (non-finite ones are left out), with about `labels` round ticks. A few values
    /// far above the rest are left to stick to the edge; `always` is kept inside.
    pub fn new(values: &[f64], always: &[f64], log: bool, labels: usize) -> Axis {
        let fits = |v: &f64| v.is_finite() && (!log || *v > 0.0);
        let mut sorted: Vec<f64> = values.iter().copied().filter(fits).collect();
        sorted.sort_by(f64::total_cmp);
        let (mut lo, mut hi) = match (sorted.first(), sorted.last()) {
            (Some(lo), Some(hi)) => (*lo, *hi),
            _ => (f64::INFINITY, f64::NEG_INFINITY),
        };
        if sorted.len() >= 20 && !log {
            let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
            let (low, high) = (at(0.02), at(0.95));
            hi = hi.min(high + 2.0 * (high - low));
        }
        for v in always.iter().filter(|v| fits(v)) {
            lo = lo.min(*v);
            hi = hi.max(*v);
        }
        if lo > hi {
            (lo, hi) = if log { (0.1, 1.0) } else { (0.0, 1.0) };
        }
        if log {
            Self::logarithmic(lo, hi, labels)
        } else {
            Self::linear(lo, hi, labels)
        }
    }

    fn linear(lo: f64, hi: f64, labels: usize) -> Axis {
        let least = (hi.abs().max(lo.abs()) * 1e-3).max(1e-12);
        let step = round_step((hi - lo).max(least) / labels.max(2) as f64);
        // Ends at half a step: a whole one may leave a third of the chart empty.
        let half = step / 2.0;
        let lo = (lo / half + 1e-9).floor() * half;
        let mut hi = (hi / half - 1e-9).ceil() * half;
        if hi <= lo {
            hi = lo + step;
        }
        let largest = hi.abs().max(lo.abs());
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let label = |v: f64| {
            if largest < 1e-3 {
                if v.abs() < step / 2.0 {
                    "0".to_owned()
                } else {
                    format!("{v:.1e}")
                }
            } else if largest >= 1e5 {
                text::short(v)
            } else {
                format!("{v:.decimals$}")
            }
        };
        let mut ticks = multiples(lo, hi, step);
        while ticks.len() > labels.max(2) + 1 {
            // Every other one, counted from the bottom.
            ticks = ticks.into_iter().step_by(2).collect();
        }
        Axis {
            lo,
            hi,
            log: false,
            ticks: ticks.into_iter().map(|v| (v, label(v))).collect(),
        }
    }

    fn logarithmic(lo: f64, hi: f64, labels: usize) -> Axis {
        let candidates: Vec<f64> = {
            let first = lo.log10().floor() as i32;
            let last = hi.log10().ceil() as i32;
            (first..=last)
                .flat_map(|p| {
                    [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0].map(|m| m * 10f64.powi(p))
                })
                .collect()
        };
        let below = candidates.iter().copied().filter(|c| *c <= lo * 1.000_001);
        let above = candidates.iter().copied().filter(|c| *c >= hi * 0.999_999);
        let lo = below.fold(f64::NAN, f64::max).min(lo);
        let mut hi = above.fold(f64::NAN, f64::min).max(hi);
        if hi <= lo {
            hi = lo * 2.0;
        }
        let mut ticks: Vec<f64> = candidates
            .into_iter()
            .filter(|c| (lo * 0.999_999..=hi * 1.000_001).contains(c))
            .collect();
        while ticks.len() > labels.max(2) + 1 {
            ticks = ticks.into_iter().step_by(2).collect();
        }
        let label = |v: f64| {
            if !(1e-3..1e5).contains(&v) {
                format!("{v:.0e}")
            } else {
                let decimals = (1.0 - v.log10().floor()).clamp(0.0, 4.0) as usize;
                format!("{v:.decimals$}")
            }
        };
        Axis {
            lo,
            hi,
            log: true,
            ticks: ticks.into_iter().map(|v| (v, label(v))).collect(),
        }
    }

    pub fn contains(&self, value: f64) -> bool {
        (self.lo..=self.hi).contains(&value)
    }

    /// Height from 0 (bottom) to 1 (top), stuck to the edge outside; `None` for what has none.
    pub fn height(&self, value: f64) -> Option<f64> {
        if !value.is_finite() || (self.log && value <= 0.0) {
            return None;
        }
        let at = if self.log {
            (value / self.lo).ln() / (self.hi / self.lo).ln()
        } else {
            (value - self.lo) / (self.hi - self.lo)
        };
        at.is_finite().then(|| at.clamp(0.0, 1.0))
    }

    /// Which of `n` rows from the top a value falls into.
    pub fn row(&self, value: f64, n: usize) -> Option<usize> {
        let height = self.height(value)?;
        n.checked_sub(1)
            .map(|top| ((1.0 - height) * top as f64).round() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_stands_still_while_steps_come_in() {
        let ends: Vec<f64> = (1..=4096)
            .map(|step| Window::new(step, 0, 0, None).last)
            .collect();
        let jumps = ends.windows(2).filter(|w| w[0] != w[1]).count();
        assert!(jumps <= 16, "{jumps} jumps");
        for (step, end) in (1..=4096).zip(&ends) {
            assert!(*end >= f64::from(step) && *end <= (1.5 * f64::from(step)).max(16.0));
        }
        let zoomed: Vec<f64> = (3000..=4000)
            .map(|step| Window::new(step, 0, 4, None).first)
            .collect();
        assert!(zoomed.windows(2).filter(|w| w[0] != w[1]).count() <= 20);
    }

    #[test]
    fn the_window_holds_the_last_step_or_the_crosshair_and_ends_with_the_run() {
        for zoom in 0..8 {
            for step in [1, 5, 100, 777, 5000] {
                let w = Window::new(step, 0, zoom, None);
                assert!(w.column(step as f64, 100).is_some(), "{w:?} {step}");
                let w = Window::new(5000, 6000, zoom, Some(step));
                assert!(w.column(step as f64, 100).is_some(), "{w:?} {step}");
                assert!(w.first >= 0.0);
            }
        }
        assert_eq!(Window::new(600, 640, 0, None).last, 640.0);
        assert_eq!(Window::new(3, 3, 0, None).last, 3.0);
    }

    #[test]
    fn no_value_puts_an_axis_out_of_order() {
        let odd = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            0.0,
            -1.0,
            1e-300,
            1e300,
            2.5,
        ];
        for a in odd {
            for b in odd {
                for log in [false, true] {
                    let axis = Axis::new(&[a, b], &[b], log, 4);
                    assert!(axis.hi > axis.lo, "{a} {b} {log}: {axis:?}");
                    assert!(axis.ticks.len() <= 120);
                    for v in odd {
                        if let Some(h) = axis.height(v) {
                            assert!((0.0..=1.0).contains(&h));
                        }
                    }
                    assert_eq!(axis.height(f64::NAN), None);
                }
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        let labels = |values: &[f64], log| {
            Axis::new(values, &[], log, 5)
                .ticks
                .into_iter()
                .map(|t| t.1)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            labels(&[0.9, 2.8], false),
            ["1.0", "1.5", "2.0", "2.5", "3.0"]
        );
        assert_eq!(
            labels(&[0.0, 2e-4], false),
            ["0", "5.0e-5", "1.0e-4", "1.5e-4", "2.0e-4"]
        );
        assert_eq!(labels(&[0.01, 10.0], true).first().unwrap(), "0.010");
    }

    #[test]
    fn one_spike_does_not_flatten_the_curve() {
        let mut values = vec![1.0; 100];
        for (i, v) in values.iter_mut().enumerate() {
            *v += i as f64 / 100.0;
        }
        values.push(500.0);
        let axis = Axis::new(&values, &[], false, 5);
        assert!(axis.hi < 10.0, "{axis:?}");
        assert_eq!(axis.height(500.0), Some(1.0));
    }
}
