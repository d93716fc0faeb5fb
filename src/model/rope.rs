//! The frequencies of rotary position embeddings, with the scalings that lengthen a context.
//!
//! Each follows `modeling_rope_utils.py` of transformers, whose names are kept.

use anyhow::Result;

use super::config::DecoderConfig;
use crate::error::input_error;

#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions are divided.
    Linear {
        factor: f64,
    },
    /// Beyond the context, theta grows with the sequence ("NTK-aware").
    Dynamic {
        factor: f64,
    },
    /// As published with Llama 3.1: long waves are stretched by `factor`, short ones kept, those
    /// between blended.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// <https://arxiv.org/abs/2309.00071>
    Yarn {
        factor: f64,
        /// Multiplies cosines and sines.
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_max_position_embeddings: usize,
        /// Whether the blended range is widened to whole features.
        truncate: bool,
    },
    /// <https://arxiv.org/abs/2402.13753>: one divisor per frequency, others for sequences longer
    /// than the original context.
    LongRope {
        short: Vec<f32>,
        long: Vec<f32>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// One divisor per frequency, as GGUF's `rope_freqs.weight` gives them.
    Factors(Vec<f32>),
}

/// How a token's heads are rotated.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rotation {
    /// Per position, of each pair of a head's features.
    pub frequencies: Vec<f32>,
    /// Multiplies cosines and sines.
    pub factor: f32,
}

impl RopeScaling {
    /// Refuses numbers that no rotation can be computed with.
    pub(super) fn check(&self, rotary_dim: usize, file: &str) -> Result<()> {
        let positive = |x: &f64| x.is_finite() && *x > 0.0;
        let numbers: Vec<f64> = match self {
            RopeScaling::None => vec![],
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor } => vec![*factor],
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                ..
            } => vec![*factor, *low_freq_factor, *high_freq_factor],
            RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                ..
            } => vec![*factor, *attention_factor, *beta_fast, *beta_slow],
            RopeScaling::LongRope {
                short,
                long,
                attention_factor,
                ..
            } => {
                for divisors in [short, long] {
                    check_divisors(divisors, rotary_dim, file)?;
                }
                vec![*attention_factor]
            }
            RopeScaling::Factors(divisors) => {
                check_divisors(divisors, rotary_dim, file)?;
                vec![]
            }
        };
        if !numbers.iter().all(positive) {
            return Err(input_error(format!(
                "{file}: rope scaling has the numbers {numbers:?}; all must be positive"
            )));
        }
        let original = match self {
            RopeScaling::Llama3 {
                original_max_position_embeddings: n,
                ..
            }
            | RopeScaling::Yarn {
                original_max_position_embeddings: n,
                ..
            }
            | RopeScaling::LongRope {
                original_max_position_embeddings: n,
                ..
            } => *n,
            _ => 1,
        };
        if original == 0 {
            return Err(input_error(format!(
                "{file}: rope scaling says an original context of 0 tokens"
            )));
        }
        Ok(())
    }
}

fn check_divisors(divisors: &[f32], rotary_dim: usize, file: &str) -> Result<()> {
    if divisors.len() != rotary_dim / 2 || divisors.iter().any(|f| !f.is_finite() || *f <= 0.0) {
        return Err(input_error(format!(
            "{file}: rope scaling needs {} positive factors, it has {} numbers",
            rotary_dim / 2,
            divisors.len()
        )));
    }
    Ok(())
}

/// Yarn's own attention factor for a scaling by `factor`.
pub(super) fn yarn_attention_factor(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

/// LongRoPE's own attention factor for a context stretched by `factor`.
pub(super) fn longrope_attention_factor(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        (1.0 + factor.ln() / (original as f64).ln()).sqrt()
    }
}

impl DecoderConfig {
    /// The rotation for sequences of `tokens` tokens, in f32 as the reference implementation
    /// computes it.
    pub(super) fn rotation(&self, tokens: usize) -> Rotation {
        let dim = self.rotary_dim;
        let plain = |theta: f64| {
            (0..dim / 2).map(move |j| {
                let exponent = (2 * j) as f32 / dim as f32;
                1.0 / (theta as f32).powf(exponent)
            })
        };
        let divided = |by: &[f32]| {
            plain(self.rope_theta)
                .zip(by)
                .map(|(f, by)| f / by)
                .collect()
        };
        let mut factor = 1.0;
        let frequencies = match &self.rope_scaling {
            RopeScaling::None => plain(self.rope_theta).collect(),
            RopeScaling::Linear { factor } => {
                plain(self.rope_theta).map(|f| f / *factor as f32).collect()
            }
            RopeScaling::Dynamic { factor } => {
                let context = self.max_position_embeddings as f64;
                let stretch = (tokens as f64).max(context) / context;
                let base = factor * stretch - (factor - 1.0);
                let power = dim as f64 / (dim as f64 - 2.0);
                plain(self.rope_theta * base.powf(power)).collect()
            }
            RopeScaling::Factors(factors) => divided(factors),
            RopeScaling::LongRope {
                short,
                long,
                attention_factor,
                original_max_position_embeddings,
            } => {
                factor = *attention_factor;
                divided(match tokens > *original_max_position_embeddings {
                    true => long,
                    false => short,
                })
            }
            RopeScaling::Yarn {
                factor: stretch,
                attention_factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                truncate,
            } => {
                factor = *attention_factor;
                // The pair that turns so many times within the original context.
                let pair = |turns: f64| {
                    let waves = *original_max_position_embeddings as f64
                        / (turns * 2.0 * std::f64::consts::PI);
                    dim as f64 * waves.ln() / (2.0 * self.rope_theta.ln())
                };
                let (mut low, mut high) = (pair(*beta_fast), pair(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
                let width = if low == high { 0.001 } else { high - low };
                plain(self.rope_theta)
                    .enumerate()
                    .map(|(j, f)| {
                        let stretched = ((j as f64 - low) / width).clamp(0.0, 1.0) as f32;
                        f / *stretch as f32 * stretched + f * (1.0 - stretched)
                    })
                    .collect()
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => plain(self.rope_theta)
                .map(|f| {
                    let frequency = f64::from(f);
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    let turns = *original_max_position_embeddings as f64 / wavelength;
                    let scaled = if turns < *low_freq_factor {
                        frequency / factor
                    } else if turns > *high_freq_factor {
                        frequency
                    } else {
                        let smooth =
                            (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    };
                    scaled as f32
                })
                .collect(),
        };
        Rotation {
            frequencies,
            factor: factor as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scaling_that_depends_on_the_length_changes_beyond_the_context_only() {
        let mut config = DecoderConfig::tiny();
        let plain = config.rotation(16);
        config.rope_scaling = RopeScaling::Dynamic { factor: 2.0 };
        assert_eq!(config.rotation(16), plain);
        assert!(config.rotation(17).frequencies[1] < plain.frequencies[1]);
        config.rope_scaling = RopeScaling::LongRope {
            short: vec![1.0, 2.0],
            long: vec![4.0, 8.0],
            attention_factor: 1.5,
            original_max_position_embeddings: 10,
        };
        let (short, long) = (config.rotation(10), config.rotation(11));
        assert_eq!(short.frequencies[0], 1.0);
        assert_eq!(long.frequencies[0], 0.25);
        assert_eq!((short.factor, long.factor), (1.5, 1.5));
    }

    #[test]
    fn factors_of_another_number_or_not_positive_are_refused() {
        for scaling in [
            RopeScaling::Factors(vec![1.0]),
            RopeScaling::Factors(vec![1.0, 0.0]),
            RopeScaling::Factors(vec![1.0, f32::NAN]),
            RopeScaling::Linear { factor: -1.0 },
            RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 0,
            },
        ] {
            let config = DecoderConfig {
                rope_scaling: scaling.clone(),
                ..DecoderConfig::tiny()
            };
            assert!(config.check("file").is_err(), "{scaling:?}");
        }
    }
}
