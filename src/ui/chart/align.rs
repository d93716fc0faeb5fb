//! Several runs in one chart: what stands below their curves, and in which colours they are drawn.

use super::curve::{Point, memory, points, smooth};
use super::scale::Window;
use super::{Curve, Dot, step_label};
use crate::protocol::{RunCurves, Series};
use crate::ui::lang::Lang;
use crate::ui::text;
use crate::ui::theme::Role;

/// What runs are aligned by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    #[default]
    Step,
    /// Tokens seen.
    Tokens,
    /// Seconds trained, without pauses.
    Time,
}

impl Align {
    pub fn next(self) -> Align {
        match self {
            Align::Step => Align::Tokens,
            Align::Tokens => Align::Time,
            Align::Time => Align::Step,
        }
    }

    pub fn word(self, lang: Lang) -> &'static str {
        match self {
            Align::Step => lang.by_step(),
            Align::Tokens => lang.by_tokens(),
            Align::Time => lang.by_time(),
        }
    }

    /// Writes a place on the x axis.
    pub fn label(self) -> fn(f64) -> String {
        match self {
            Align::Step => step_label,
            Align::Tokens => text::short,
            Align::Time => text::clock,
        }
    }

    /// The place of a step on the x axis, from the run's tokens and seconds by step.
    pub fn place(self, step: f64, tokens: &Series, seconds: &Series) -> f64 {
        match self {
            Align::Step => step,
            Align::Tokens => at(tokens, step),
            Align::Time => at(seconds, step),
        }
    }
}

/// A series' value at a step, between its points in a straight line from (0, 0) on.
fn at(series: &Series, step: f64) -> f64 {
    let buckets = series.buckets();
    let middle = |i: usize| {
        let b = &buckets[i];
        ((b.first_step + b.last_step) as f64 / 2.0, b.mean())
    };
    let after = buckets.partition_point(|b| ((b.first_step + b.last_step) as f64 / 2.0) < step);
    let (x0, y0) = match after {
        0 => (0.0, 0.0),
        _ => middle(after - 1),
    };
    let (x1, y1) = match (after < buckets.len(), series.last()) {
        (true, _) => middle(after),
        (false, Some((x, y))) => (x as f64, y),
        (false, None) => return 0.0,
    };
    if x1 <= x0 {
        return y0.max(y1);
    }
    y0 + (y1 - y0) * ((step - x0) / (x1 - x0)).clamp(0.0, 1.0)
}

/// A window that holds the ends of all runs, halved `zoom` times.
pub fn window_of(runs: &[&RunCurves], align: Align, zoom: u32) -> Window {
    let end = runs
        .iter()
        .map(|r| align.place(r.step as f64, &r.tokens, &r.seconds))
        .filter(|x| x.is_finite())
        .fold(1.0, f64::max);
    Window::new(end.ceil() as u64, 0, zoom, None)
}

/// What the run of a number is called beside its curve: `A`, `B`, ...
pub fn letter(run: usize) -> &'static str {
    let at = run % LETTERS.len();
    &LETTERS[at..=at]
}

const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const SMALL: &str = "abcdefghijklmnopqrstuvwxyz";

/// A run's averaged loss and its held-out losses, at their places in `window`; `number` gives both
/// their letter.
pub fn run_curve(
    run: &RunCurves,
    align: Align,
    window: Window,
    smoothing: i32,
    role: Role,
    number: usize,
) -> (Curve, Vec<Dot>) {
    let whole = Window {
        first: 0.0,
        last: run.step.max(1) as f64,
    };
    let place = |step: f64| align.place(step, &run.tokens, &run.seconds);
    let raw = points(&run.loss, whole);
    // How much is averaged follows from the share of the run that shows.
    let end = place(run.step as f64).max(1.0);
    let shown = (window.span() / end).min(1.0) * whole.span();
    let average = smooth(&raw, memory(shown, smoothing));
    let curve = Curve {
        points: raw
            .into_iter()
            .map(|p| Point {
                step: place(p.step),
                ..p
            })
            .collect(),
        raw: None,
        smooth: Some(role),
        average: average.into_iter().map(|(s, v)| (place(s), v)).collect(),
        letter: Some(letter(number)),
    };
    let at = number % SMALL.len();
    let dots = run.evals.iter().map(|(s, v)| Dot {
        x: place(*s as f64),
        value: v.0,
        role,
        letter: Some(&SMALL[at..=at]),
    });
    (curve, dots.collect())
}

const COLOURS: [Role; 6] = [
    Role::Run1,
    Role::Run2,
    Role::Run3,
    Role::Run4,
    Role::Run5,
    Role::Run6,
];

/// A colour for each run. It follows from the run's name, and gives way only to a run whose name
/// comes earlier in the alphabet and wants the same.
pub fn colours(names: &[&str]) -> Vec<Role> {
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_key(|i| names[*i]);
    let mut taken: Vec<Role> = Vec::new();
    let mut colours = vec![COLOURS[0]; names.len()];
    for i in order {
        // FNV-1a: the same on every machine and in every version.
        let hash = names[i].bytes().fold(0x811c_9dc5_u32, |h, b| {
            (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
        });
        let wanted = hash as usize % COLOURS.len();
        let free = (0..COLOURS.len())
            .map(|k| COLOURS[(wanted + k) % COLOURS.len()])
            .find(|role| !taken.contains(role));
        colours[i] = free.unwrap_or(COLOURS[wanted]);
        taken.push(colours[i]);
    }
    colours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: u64, tokens_per_step: f64, seconds_per_step: f64) -> RunCurves {
        let mut run = RunCurves {
            step: steps,
            ..RunCurves::default()
        };
        for step in 1..=steps {
            run.loss.push(step, 5.0 - step as f64 / steps as f64);
            run.tokens.push(step, step as f64 * tokens_per_step);
            run.seconds.push(step, step as f64 * seconds_per_step);
        }
        run
    }

    #[test]
    fn steps_lie_where_their_tokens_and_seconds_do() {
        for steps in [10, 5000] {
            let run = run(steps, 100.0, 0.5);
            let place = |align: Align, step| align.place(step, &run.tokens, &run.seconds);
            for step in [1.0, 3.0, 7.5, 10.0] {
                assert_eq!(place(Align::Step, step), step);
                assert!((place(Align::Tokens, step) - step * 100.0).abs() < 1e-6);
                assert!((place(Align::Time, step) - step * 0.5).abs() < 1e-9);
            }
            let last = steps as f64;
            assert_eq!(place(Align::Tokens, last), last * 100.0);
        }
        assert_eq!(
            Align::Tokens.place(3.0, &Series::default(), &Series::default()),
            0.0
        );
    }

    #[test]
    fn the_window_reaches_to_the_run_that_goes_furthest() {
        let (short, long) = (run(10, 1000.0, 1.0), run(100, 10.0, 1.0));
        let runs = [&short, &long];
        assert!(window_of(&runs, Align::Step, 0).last >= 100.0);
        assert!(window_of(&runs, Align::Tokens, 0).last >= 10_000.0);
        let window = window_of(&runs, Align::Tokens, 0);
        let (curve, _) = run_curve(&short, Align::Tokens, window, 0, Role::Run1, 0);
        assert_eq!(curve.average.last().unwrap().0, 10_000.0);
    }

    #[test]
    fn a_run_keeps_its_colour_whatever_stands_beside_it() {
        let alone = colours(&["alpha"])[0];
        let with = colours(&["zeta", "alpha", "beta"]);
        assert_eq!(with[1], alone);
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut six = colours(&names);
        six.sort_by_key(|r| *r as usize);
        six.dedup();
        assert_eq!(six.len(), 6, "six runs have six colours");
        assert_eq!(colours(&["a", "b", "c", "d", "e", "f", "g"]).len(), 7);
    }
}
