//! Counter-based random numbers (Philox4x32-10): every draw is a pure function of its key, so a
//! checkpoint needs counters, never generator state.
//!
//! Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

/// What a draw is for; part of the key, so that purposes never share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Purpose {
    Shuffle = 1,
    Split = 2,
    Init = 3,
    Dropout = 4,
    Sampling = 5,
    /// A picture's noise in training.
    Noise = 6,
    Timestep = 7,
    /// Whether an image is mirrored.
    Flip = 16,
    /// Dropping and shuffling captions.
    Caption = 17,
}

/// A stream of numbers for one key. Two streams with equal keys give equal numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    /// Next unused word of `block`; 4: none left.
    next: usize,
}

impl Stream {
    /// `step` and `item` (sample, module, ...) select the stream within seed and purpose.
    pub fn new(seed: u64, purpose: Purpose, step: u64, item: u32) -> Self {
        // Purpose and item lie in the counter's upper words, steps in the key's: a stream would
        // need 2^32 blocks to run into its neighbour.
        let mixed = splitmix64(seed ^ splitmix64(step.wrapping_add((purpose as u64) << 56)));
        Stream {
            key: [mixed as u32, (mixed >> 32) as u32],
            counter: [0, purpose as u32, item, step as u32],
            block: [0; 4],
            next: 4,
        }
    }

    /// Counter and key of the first block, for drawing the same numbers elsewhere.
    pub fn origin(&self) -> ([u32; 4], [u32; 2]) {
        (self.counter, self.key)
    }

    pub fn next_u32(&mut self) -> u32 {
        if self.next == 4 {
            self.block = philox4x32_10(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.next = 0;
        }
        let word = self.block[self.next];
        self.next += 1;
        word
    }

    /// Passes over the next `words` numbers.
    pub fn skip(&mut self, words: u64) {
        let buffered = (4 - self.next) as u64;
        if words < buffered {
            self.next += words as usize;
            return;
        }
        let words = words - buffered;
        self.next = 4;
        self.counter[0] = self.counter[0].wrapping_add((words / 4) as u32);
        for _ in 0..words % 4 {
            self.next_u32();
        }
    }

    /// Uniform in [0, 1), 24 bits.
    pub fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform_f64(&mut self) -> f64 {
        let bits = (u64::from(self.next_u32()) << 32) | u64::from(self.next_u32());
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` numbers of the standard normal distribution (Box and Muller, 1958).
    pub fn gaussian(&mut self, count: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(count + 1);
        while numbers.len() < count {
            // From (0, 1]: the logarithm of 0 is none.
            let radius = (-2.0 * (1.0 - self.uniform_f64()).ln()).sqrt();
            let angle = std::f64::consts::TAU * self.uniform_f64();
            numbers.push((radius * angle.cos()) as f32);
            numbers.push((radius * angle.sin()) as f32);
        }
        numbers.truncate(count);
        numbers
    }

    /// Uniform in 0..n, without bias. `n` must not be 0.
    pub fn below(&mut self, n: u32) -> u32 {
        let limit = u32::MAX - (u32::MAX % n + 1) % n;
        loop {
            let x = self.next_u32();
            if x <= limit {
                return x % n;
            }
        }
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key[0] = key[0].wrapping_add(0x9E37_79B9);
            key[1] = key[1].wrapping_add(0xBB67_AE85);
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of Random123's `kat_vectors` for philox4x32-10.
    #[test]
    fn philox_gives_the_papers_known_answers() {
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn below_reaches_every_value_and_no_other() {
        let mut stream = Stream::new(1, Purpose::Shuffle, 0, 0);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[stream.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 800), "{seen:?}");
    }

    #[test]
    fn normal_numbers_have_the_moments_of_the_normal_distribution() {
        let numbers = Stream::new(1, Purpose::Noise, 0, 0).gaussian(100_001);
        let moment = |power: i32| {
            let sum: f64 = numbers.iter().map(|&x| f64::from(x).powi(power)).sum();
            sum / numbers.len() as f64
        };
        for (power, expected, tolerance) in [
            (1, 0.0, 0.015),
            (2, 1.0, 0.02),
            (3, 0.0, 0.05),
            (4, 3.0, 0.12),
        ] {
            assert!(
                (moment(power) - expected).abs() < tolerance,
                "{power}: {}",
                moment(power)
            );
        }
    }

    #[test]
    fn streams_of_other_steps_items_and_purposes_differ() {
        let first = |p, s, i| Stream::new(42, p, s, i).next_u32();
        let a = first(Purpose::Dropout, 1, 1);
        assert_ne!(a, first(Purpose::Dropout, 2, 1));
        assert_ne!(a, first(Purpose::Dropout, 1, 2));
        assert_ne!(a, first(Purpose::Init, 1, 1));
    }
}
