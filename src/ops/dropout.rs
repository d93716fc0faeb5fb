//! Dropout whose mask is a pure function of a key, so that recomputation replays it.

use crate::random::{Purpose, Stream};

/// The mask of one module in one micro-batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    pub seed: u64,
    pub step: u64,
    /// Micro-batch and module.
    pub item: u32,
    /// Numbers of the micro-batch that come before these: a mask does not depend on the pieces in
    /// which it is applied.
    pub before: u64,
    /// Of a number to be dropped, in `[0, 1)`.
    pub probability: f64,
}

impl Dropout {
    /// The numbers that decide, one for each of the whole micro-batch.
    pub(super) fn stream(&self) -> Stream {
        Stream::new(self.seed, Purpose::Dropout, self.step, self.item)
    }

    /// What those that stay are multiplied by.
    pub(super) fn kept(&self) -> f32 {
        (1.0 / (1.0 - self.probability)) as f32
    }

    /// A number stays where the stream's is at least this.
    pub(super) fn threshold(&self) -> u32 {
        (self.probability * (1u64 << 32) as f64) as u32
    }

    /// The mask from `numbers` numbers further on.
    pub(super) fn after(&self, numbers: u64) -> Dropout {
        Dropout {
            before: self.before + numbers,
            ..*self
        }
    }

    /// `x` with some numbers dropped and the others scaled up to keep the mean.
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut stream = self.stream();
        stream.skip(self.before);
        let (kept, threshold) = (self.kept(), self.threshold());
        x.iter()
            .map(|&x| match stream.next_u32() >= threshold {
                true => x * kept,
                false => 0.0,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_drop_the_same_numbers_at_the_asked_rate_and_keep_the_mean() {
        let dropout = Dropout {
            seed: 1,
            step: 2,
            item: 3,
            before: 0,
            probability: 0.25,
        };
        let x = vec![1.0; 100_000];
        let y = dropout.apply(&x);
        assert_eq!(y, dropout.apply(&x));
        let dropped = y.iter().filter(|&&y| y == 0.0).count();
        assert!((24_400..25_600).contains(&dropped), "{dropped}");
        let mean = y.iter().sum::<f32>() / y.len() as f32;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
        assert_ne!(y, Dropout { step: 3, ..dropout }.apply(&x));
        for before in [1, 4, 77_777] {
            let rest = Dropout {
                before: before as u64,
                ..dropout
            };
            assert_eq!(rest.apply(&x[before..]), y[before..]);
        }
    }
}
