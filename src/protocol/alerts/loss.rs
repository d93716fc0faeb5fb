//! What is usual for the training loss: averages that follow it quickly and slowly, how far a step
//! strays by chance, and where it swings more than that.

use serde::{Deserialize, Serialize};

use super::WARM_UP;

/// How much a step counts in the averages.
const FAST: f64 = 1.0 / 4.0;
const MIDDLE: f64 = 1.0 / 8.0;
const SLOW: f64 = 1.0 / 32.0;

/// A swing of the middle average, as a share of it ...
const SWING: f64 = 0.07;
/// ... and in its own deviations where steps differ by chance alone:
/// the average of thousands of such steps wanders by five.
const SWING_DEVIATIONS: f64 = 6.5;
/// Steps for which turns between swings are remembered.
const TURN_STEPS: u64 = 200;

/// What is usual for the training loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossWatch {
    pub count: u64,
    pub fast: f64,
    pub slow: f64,
    /// Of a step around the fast average before it.
    pub variance: f64,
    pub peak_rate: f64,
    /// Lowest slow average that was a gain, and when.
    pub best: Option<(u64, f64)>,
    pub swings: Swings,
    pub last_non_finite: Option<u64>,
}

/// Where the loss turned after a swing that chance does not make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Swings {
    average: f64,
    last: Option<f64>,
    /// Of a step by chance: half the mean square of what neighbours differ by.
    pub variance: f64,
    rising: bool,
    /// Highest or lowest average since the last turn.
    extreme: Option<f64>,
    /// Steps and averages.
    pub turns: Vec<(u64, f64)>,
}

impl LossWatch {
    pub fn push(&mut self, step: u64, loss: f64) {
        self.count += 1;
        if self.count == 1 {
            (self.fast, self.slow) = (loss, loss);
        }
        // Quick to learn at the beginning, when the loss falls fast.
        let slow = SLOW.max(1.0 / self.count as f64);
        // An outlier must not become the usual.
        let (mut usual, mut off) = (loss, loss - self.fast);
        if self.count > WARM_UP {
            let most = 3.0 * self.variance.sqrt();
            usual = usual.min(self.slow + most);
            off = off.clamp(-most, most);
        }
        self.slow += slow * (usual - self.slow);
        self.variance += slow * (off * off - self.variance);
        self.fast += FAST * (loss - self.fast);
        self.swings.push(step, loss, self.count);
    }
}

impl Swings {
    fn push(&mut self, step: u64, loss: f64, count: u64) {
        let n = 1.0 / count as f64;
        if let Some(last) = self.last.replace(loss) {
            let square = (loss - last) * (loss - last) / 2.0;
            self.variance += SLOW.max(n) * (square - self.variance);
        }
        self.average += MIDDLE.max(n) * (loss - self.average);
        if count < WARM_UP {
            return;
        }
        let at = self.average;
        // An exponential average of white noise keeps a / (2 - a) of its variance.
        let chance = (self.variance * MIDDLE / (2.0 - MIDDLE)).sqrt();
        let swing = (SWING * at.abs()).max(SWING_DEVIATIONS * chance);
        let extreme = *self.extreme.get_or_insert(at);
        let turned = match self.rising {
            true => at < extreme - swing,
            false => at > extreme + swing,
        };
        if turned {
            self.turns.push((step, extreme));
            self.rising = !self.rising;
            self.extreme = Some(at);
        } else if self.rising {
            self.extreme = Some(extreme.max(at));
        } else {
            self.extreme = Some(extreme.min(at));
        }
        self.turns.retain(|(s, _)| s + TURN_STEPS > step);
    }
}
