//! A line of `sample_prompts`, in the syntax of kohya's trainer:
//! `prompt --n negative --w 512 --h 512 --d seed --s steps --l scale --ss sampler`.

use anyhow::Result;

use super::sampler::SamplerKind;
use crate::error::input_error;

/// What a picture is drawn from.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    pub prompt: String,
    pub negative: String,
    /// Pixels; multiples of 8.
    pub width: usize,
    pub height: usize,
    pub seed: u64,
    pub steps: usize,
    /// Weight of the prompt against the negative one (classifier-free guidance,
    /// arXiv:2207.12598); 1: the prompt alone.
    pub scale: f64,
    pub sampler: SamplerKind,
}

impl Drawing {
    /// A drawing of a square's side and a seed, with nothing to draw yet.
    pub fn new(side: usize, seed: u64) -> Self {
        Drawing {
            prompt: String::new(),
            negative: String::new(),
            width: side,
            height: side,
            seed,
            steps: 20,
            scale: 7.5,
            sampler: SamplerKind::DpmPlusPlus2M,
        }
    }

    /// A line, with the values of `self` for what it leaves out.
    ///
    /// # Errors
    /// An option that is unknown or has no value that can be used.
    pub fn with_line(&self, line: &str) -> Result<Self> {
        let mut drawing = self.clone();
        let mut parts = line.split(" --");
        drawing.prompt = parts.next().unwrap_or_default().trim().to_owned();
        if let Some(first) = drawing.prompt.strip_prefix("--") {
            // Nothing but options: the empty prompt.
            let first = first.to_owned();
            drawing.prompt.clear();
            drawing.option(&first, line)?;
        }
        for part in parts {
            drawing.option(part, line)?;
        }
        drawing.check(line)?;
        Ok(drawing)
    }

    fn option(&mut self, part: &str, line: &str) -> Result<()> {
        let (name, value) = part.split_once(char::is_whitespace).unwrap_or((part, ""));
        let value = value.trim();
        let wrong = |what: &str| {
            input_error(format!(
                "sample prompt '{line}': --{name} '{value}' is not {what}"
            ))
        };
        match name {
            "n" => self.negative = value.to_owned(),
            "w" => self.width = value.parse().map_err(|_| wrong("a number of pixels"))?,
            "h" => self.height = value.parse().map_err(|_| wrong("a number of pixels"))?,
            "d" => self.seed = value.parse().map_err(|_| wrong("a seed"))?,
            "s" => self.steps = value.parse().map_err(|_| wrong("a number of steps"))?,
            "l" => self.scale = value.parse().map_err(|_| wrong("a guidance scale"))?,
            "ss" => {
                self.sampler = SamplerKind::named(value)
                    .ok_or_else(|| wrong("a sampler: ddim, dpm++_2m or euler_a"))?;
            }
            _ => {
                return Err(input_error(format!(
                    "sample prompt '{line}': --{name} is unknown; there are --n (negative prompt), \
                     --w and --h (pixels), --d (seed), --s (steps), --l (guidance scale) and --ss \
                     (sampler)"
                )));
            }
        }
        Ok(())
    }

    /// # Errors
    /// Values that nothing can be drawn with; `line` names the prompt.
    pub fn check(&self, line: &str) -> Result<()> {
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if !(8..=4096).contains(&side) || side % 8 != 0 {
                return Err(input_error(format!(
                    "sample prompt '{line}': a {name} of {side} cannot be drawn; give a multiple of 8, at most 4096"
                )));
            }
        }
        if !(1..=1000).contains(&self.steps) {
            return Err(input_error(format!(
                "sample prompt '{line}': {} steps cannot be made; give 1 to 1000",
                self.steps
            )));
        }
        if !(self.scale.is_finite() && self.scale >= 0.0) {
            return Err(input_error(format!(
                "sample prompt '{line}': a guidance scale of {} cannot be used; 1 is the prompt alone, 7.5 usual",
                self.scale
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Drawing> {
        Drawing::new(512, 42).with_line(line)
    }

    #[test]
    fn kohyas_options_are_read_and_what_is_left_out_keeps_its_value() {
        let all =
            "a fox, red --n blurry, low quality --w 640 --h 384 --d 7 --s 30 --l 5.5 --ss euler_a";
        let expected = Drawing {
            prompt: "a fox, red".into(),
            negative: "blurry, low quality".into(),
            width: 640,
            height: 384,
            seed: 7,
            steps: 30,
            scale: 5.5,
            sampler: SamplerKind::EulerAncestral,
        };
        assert_eq!(parsed(all).unwrap(), expected);
        let bare = parsed("a fox").unwrap();
        assert_eq!(
            (bare.prompt.as_str(), bare.width, bare.seed),
            ("a fox", 512, 42)
        );
        // A hyphen within a word is no option.
        assert_eq!(
            parsed("a well--known fox").unwrap().prompt,
            "a well--known fox"
        );
        assert_eq!(parsed("--d 3").unwrap().prompt, "");
    }

    #[test]
    fn what_cannot_be_drawn_is_refused_with_the_option_that_says_so() {
        for (line, word) in [
            ("fox --w 500", "500"),
            ("fox --w wide", "--w 'wide'"),
            ("fox --s 0", "0 steps"),
            ("fox --l NaN", "guidance"),
            ("fox --q 3", "--q is unknown"),
            ("fox --ss heun", "euler_a"),
        ] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
