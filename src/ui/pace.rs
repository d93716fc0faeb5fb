//! When the next frame may be drawn: keys at once, data as the line allows.

/// Least time between two frames, in seconds, of news and of data. Nobody reads numbers that change
/// more than five times a second, and each frame is taken from the cores that train.
const BETWEEN: f64 = 0.1;
const BETWEEN_DATA: f64 = 0.2;
/// Bytes a second that data may cost while a run steps, and while it stands still.
const RATE: f64 = 1500.0;
const QUIET_RATE: f64 = 150.0;
/// Longest wait for data, in seconds.
const LONGEST: f64 = 1.5;
const QUIET_LONGEST: f64 = 5.0;
/// Seconds of unused budget that may be saved up: a jump of a chart's window costs kilobytes.
const SAVED: f64 = 2.0;

/// Why a frame is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A number has changed.
    Data,
    /// Something has happened: a phase, an acknowledgement.
    News,
    /// A key was pressed.
    Key,
}

/// A bucket of bytes that fills with time and that frames empty.
#[derive(Debug)]
pub struct Pace {
    balance: f64,
    /// When the balance was last brought up to date, and the last frame drawn.
    counted: f64,
    drawn: f64,
}

impl Pace {
    pub fn new(now: f64) -> Pace {
        Pace {
            balance: 0.0,
            counted: now,
            drawn: f64::NEG_INFINITY,
        }
    }

    fn rate(quiet: bool) -> f64 {
        if quiet { QUIET_RATE } else { RATE }
    }

    /// The time from which a frame may be drawn.
    pub fn due(&self, urgency: Urgency, quiet: bool) -> f64 {
        match urgency {
            Urgency::Key => f64::NEG_INFINITY,
            Urgency::News => self.drawn + BETWEEN,
            Urgency::Data => {
                let longest = if quiet { QUIET_LONGEST } else { LONGEST };
                let paid = self.counted - self.balance.min(0.0) / Self::rate(quiet);
                (self.drawn + BETWEEN_DATA).max(paid.min(self.drawn + longest))
            }
        }
    }

    /// A frame of so many bytes was drawn. What a key asked for is not held against the data.
    pub fn drew(&mut self, now: f64, bytes: usize, urgency: Urgency, quiet: bool) {
        let rate = Self::rate(quiet);
        let earned = (now - self.counted).max(0.0) * rate;
        self.balance = (self.balance + earned).min(rate * SAVED);
        self.counted = now;
        if bytes == 0 {
            return;
        }
        self.drawn = now;
        if urgency != Urgency::Key {
            self.balance -= bytes as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes drawn in `seconds` with a change every `every` seconds and frames of `cost` bytes.
    fn spent(seconds: f64, every: f64, cost: usize, quiet: bool) -> f64 {
        let mut pace = Pace::new(0.0);
        let mut bytes = 0;
        let mut now = 0.0;
        while now < seconds {
            now += every;
            if pace.due(Urgency::Data, quiet) <= now {
                pace.drew(now, cost, Urgency::Data, quiet);
                bytes += cost;
            }
        }
        bytes as f64 / seconds
    }

    #[test]
    fn data_stays_within_its_bytes_a_second_whatever_a_frame_costs() {
        for cost in [50, 200, 400, 900, 2000] {
            assert!(spent(60.0, 0.05, cost, false) <= 2000.0, "{cost}");
        }
        for cost in [50, 120, 400, 700] {
            assert!(spent(120.0, 0.5, cost, true) <= 200.0, "{cost}");
        }
    }

    #[test]
    fn cheap_frames_come_five_times_a_second_at_most() {
        let frames = spent(60.0, 0.01, 10, false) / 10.0;
        assert!((4.0..=5.1).contains(&frames), "{frames}");
    }

    #[test]
    fn a_key_waits_for_nothing_and_news_for_little() {
        let mut pace = Pace::new(0.0);
        pace.drew(0.0, 100_000, Urgency::Data, false);
        assert!(pace.due(Urgency::Key, false) < 0.0);
        assert!(pace.due(Urgency::News, false) <= BETWEEN);
        assert!(pace.due(Urgency::Data, false) <= LONGEST);
    }
}
