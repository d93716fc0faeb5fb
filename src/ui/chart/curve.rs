//! From a series to what is drawn of it: its points within a window, and their moving average.

use crate::protocol::Series;

use super::scale::Window;

/// Steps over which the moving average forgets, at least.
const LEAST_MEMORY: f64 = 8.0;
/// ... and as a share of the window.
const MEMORY: f64 = 1.0 / 48.0;

/// One or more steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    pub step: f64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    /// Steps it stands for.
    pub count: f64,
}

/// The series' points, at full resolution when the window lies within the series' tail. Points
/// before the window come along: the moving average needs them.
pub fn points(series: &Series, window: Window) -> Vec<Point> {
    let tail_reaches = series
        .tail()
        .next()
        .is_some_and(|(step, _)| step as f64 <= window.first.max(1.0));
    let mut points: Vec<Point> = if tail_reaches {
        series
            .tail()
            .map(|(step, value)| Point {
                step: step as f64,
                min: value,
                max: value,
                mean: value,
                count: 1.0,
            })
            .collect()
    } else {
        series
            .buckets()
            .iter()
            .map(|b| Point {
                step: (b.first_step + b.last_step) as f64 / 2.0,
                min: b.min,
                max: b.max,
                mean: b.mean(),
                count: b.count as f64,
            })
            .collect()
    };
    points.retain(|p| p.mean.is_finite() && p.step <= window.last);
    points
}

/// Steps over which the moving average forgets, doubled `smoothing` times. It follows from the
/// window's span (in steps) alone, so that the average stands still while steps come in.
pub fn memory(span: f64, smoothing: i32) -> f64 {
    (span * MEMORY).max(LEAST_MEMORY) * 2f64.powi(smoothing)
}

/// The exponential moving average at every point, without the bias of its beginning, forgetting
/// over `memory` steps.
pub fn smooth(points: &[Point], memory: f64) -> Vec<(f64, f64)> {
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|p| {
            let keep = (-p.count / memory).exp();
            sum = sum * keep + p.mean * (1.0 - keep);
            weight = weight * keep + (1.0 - keep);
            (p.step, sum / weight)
        })
        .collect()
}

/// What falls into each of `n` columns of the window, together.
pub fn columns(points: &[Point], window: Window, n: usize) -> Vec<Option<Point>> {
    let mut columns: Vec<Option<Point>> = vec![None; n];
    for p in points {
        let Some(at) = window.column(p.step, n) else {
            continue;
        };
        columns[at] = Some(match columns[at] {
            None => *p,
            Some(c) => {
                let count = c.count + p.count;
                Point {
                    step: p.step,
                    min: c.min.min(p.min),
                    max: c.max.max(p.max),
                    mean: (c.mean * c.count + p.mean * p.count) / count,
                    count,
                }
            }
        });
    }
    columns
}

/// How the smoothed curve has moved over the last tenth of the run (8 steps at least).
pub fn trend(series: &Series) -> Option<f64> {
    let last = series.last()?.0;
    let window = Window {
        first: 0.0,
        last: last as f64,
    };
    let smoothed = smooth(&points(series, window), memory(window.span(), 0));
    let (step, now) = *smoothed.last()?;
    let back = step - (step / 10.0).max(8.0);
    let (_, before) = *smoothed.iter().rev().find(|(s, _)| *s <= back)?;
    Some(now - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: impl IntoIterator<Item = f64>) -> Series {
        let mut series = Series::default();
        for (i, v) in values.into_iter().enumerate() {
            series.push(i as u64 + 1, v);
        }
        series
    }

    #[test]
    fn the_average_of_a_constant_is_the_constant_from_the_first_step() {
        let series = series([2.5; 40]);
        let window = Window::new(40, 40, 0, None);
        for (_, v) in smooth(&points(&series, window), 8.0) {
            assert!((v - 2.5).abs() < 1e-12);
        }
        assert!(trend(&series).unwrap().abs() < 1e-12);
    }

    #[test]
    fn the_average_forgets_as_an_exponential_does() {
        // A step from 0 to 1 after a long time: 1 - exp(-k/8) after k steps.
        let series = series((0..400).map(|i| if i < 390 { 0.0 } else { 1.0 }));
        let all = Window {
            first: 0.0,
            last: 400.0,
        };
        let smoothed = smooth(&points(&series, all), memory(16.0, 0));
        let expected = 1.0 - (-10.0f64 / 8.0).exp();
        assert!((smoothed.last().unwrap().1 - expected).abs() < 1e-9);
    }

    #[test]
    fn columns_keep_the_extremes_and_the_weighted_mean() {
        let series = series([1.0, 5.0, 3.0, 7.0]);
        let window = Window {
            first: 0.5,
            last: 4.5,
        };
        let columns = columns(&points(&series, window), window, 2);
        let first = columns[0].unwrap();
        assert_eq!((first.min, first.max, first.mean), (1.0, 5.0, 3.0));
        assert_eq!(columns[1].unwrap().mean, 5.0);
    }

    #[test]
    fn a_falling_loss_has_a_negative_trend_whatever_nan_comes_between() {
        let series = series((0..200).map(|i| {
            if i % 7 == 0 {
                f64::NAN
            } else {
                3.0 - f64::from(i) / 100.0
            }
        }));
        assert!(trend(&series).unwrap() < 0.0);
    }
}
