//! Pictures as PNG files that say how they were made, as AUTOMATIC1111 reads them.

use anyhow::{Context, Result};

use super::draw::Picture;
use super::line::Drawing;

/// The keyword under which AUTOMATIC1111 keeps a picture's settings.
const PARAMETERS: &str = "parameters";

impl Picture {
    /// A PNG file with a text of settings. Its bytes depend on both alone.
    ///
    /// # Errors
    /// None that a picture of at least a pixel could have.
    pub fn to_png(&self, parameters: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        // Latin-1 as a plain text chunk, anything else as UTF-8, as Pillow writes them.
        let added = match parameters.chars().all(|c| u32::from(c) < 256 && c != '\0') {
            true => encoder.add_text_chunk(PARAMETERS.into(), parameters.into()),
            false => encoder.add_itxt_chunk(PARAMETERS.into(), parameters.replace('\0', " ")),
        };
        added
            .and_then(|()| encoder.write_header())
            .and_then(|mut writer| {
                writer.write_image_data(&self.rgb)?;
                writer.finish()
            })
            .context("the picture cannot be written as PNG")?;
        Ok(bytes)
    }
}

/// A drawing's settings as AUTOMATIC1111 writes them. `adapters`: names and strengths, shown in the
/// prompt as its `<lora:name:strength>`.
pub fn parameters(drawing: &Drawing, base: &str, adapters: &[(String, f64)]) -> String {
    let mut text = drawing.prompt.clone();
    for (name, strength) in adapters {
        text += &format!(" <lora:{name}:{strength}>");
    }
    if !drawing.negative.is_empty() {
        text += &format!("\nNegative prompt: {}", drawing.negative);
    }
    text += &format!(
        "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {base}, Version: loradeck {}",
        drawing.steps,
        drawing.sampler.title(),
        drawing.scale,
        drawing.seed,
        drawing.width,
        drawing.height,
        env!("CARGO_PKG_VERSION"),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and pixels of a PNG, by the decoder.
    fn read(bytes: &[u8]) -> (Vec<(String, String)>, Vec<u8>) {
        let decoder = png::Decoder::new(std::io::Cursor::new(bytes));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let info = reader.info();
        let mut texts: Vec<(String, String)> = info
            .uncompressed_latin1_text
            .iter()
            .map(|chunk| (chunk.keyword.clone(), chunk.text.clone()))
            .collect();
        texts.extend(
            info.utf8_text
                .iter()
                .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap())),
        );
        (texts, pixels)
    }

    #[test]
    fn a_picture_keeps_its_pixels_and_says_how_it_was_made() {
        let picture = Picture {
            width: 3,
            height: 2,
            rgb: (0..18).collect(),
        };
        let drawing = Drawing::new(64, 7)
            .with_line("a fox --n blurry --l 4")
            .unwrap();
        for (prompt, name) in [
            ("a fox", "style"),
            ("ein Füchslein", "style"),
            ("狐", "画风"),
        ] {
            let drawing = Drawing {
                prompt: prompt.into(),
                ..drawing.clone()
            };
            let text = parameters(&drawing, "tiny-sd", &[(name.into(), 0.8)]);
            assert!(text.starts_with(&format!("{prompt} <lora:{name}:0.8>\nNegative prompt: blurry\nSteps: 20, Sampler: DPM++ 2M, CFG scale: 4, Seed: 7, Size: 64x64, Model: tiny-sd")), "{text}");
            let bytes = picture.to_png(&text).unwrap();
            let (texts, pixels) = read(&bytes);
            assert_eq!(texts, [("parameters".to_owned(), text.clone())]);
            assert_eq!(pixels, picture.rgb);
            assert_eq!(bytes, picture.to_png(&text).unwrap());
        }
    }
}
