//! How a picture becomes numbers: what `preprocessor_config.json` says.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::error::input_error;

/// The size that a picture is brought to first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Width and height, whatever its own shape.
    Exact(u32, u32),
    /// The shorter side; the shape stays.
    ShortestEdge(u32),
}

/// The steps from a picture to a model's input, as transformers' image processors take them.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocessing {
    /// By Pillow's bicubic filter.
    pub size: Size,
    /// Width and height that are cut out of the middle then.
    pub crop: Option<(u32, u32)>,
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// OpenAI's, of CLIP's training data; BLIP took them over.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

impl Preprocessing {
    /// What the folder's preprocessor_config.json says, else what models of `side` pixels mostly do:
    /// with `cut`, as CLIP, else as BLIP.
    ///
    /// # Errors
    /// The file is damaged, or asks for something else than a bicubic resize.
    pub(super) fn read(folder: &Path, side: usize, cut: bool) -> Result<Self> {
        let side = side as u32;
        let mut result = Preprocessing {
            size: match cut {
                true => Size::ShortestEdge(side),
                false => Size::Exact(side, side),
            },
            crop: cut.then_some((side, side)),
            mean: MEAN,
            std: STD,
        };
        let path = folder.join("preprocessor_config.json");
        if !path.exists() {
            return Ok(result);
        }
        let json = super::json(&path)?;
        let wrong = |key: &str| {
            input_error(format!(
                "{}: `{key}` is not supported as it is",
                path.display()
            ))
        };
        if json
            .get("resample")
            .and_then(Value::as_u64)
            .is_some_and(|filter| filter != 3)
        {
            return Err(wrong("resample"));
        }
        if let Some(size) = json.get("size").filter(|size| !size.is_null()) {
            result.size = read_size(size, cut).ok_or_else(|| wrong("size"))?;
        }
        match json.get("do_center_crop").and_then(Value::as_bool) {
            Some(false) => result.crop = None,
            Some(true) => {
                if let Some(size) = json.get("crop_size") {
                    match read_size(size, false).ok_or_else(|| wrong("crop_size"))? {
                        Size::Exact(width, height) => result.crop = Some((width, height)),
                        Size::ShortestEdge(_) => return Err(wrong("crop_size")),
                    }
                }
            }
            None => {}
        }
        for (key, to) in [
            ("image_mean", &mut result.mean),
            ("image_std", &mut result.std),
        ] {
            if let Some(numbers) = json.get(key).and_then(Value::as_array) {
                let numbers: Vec<f32> = numbers
                    .iter()
                    .filter_map(|n| Some(n.as_f64()? as f32))
                    .collect();
                *to = numbers.try_into().map_err(|_| wrong(key))?;
            }
        }
        if result.std.contains(&0.0) {
            return Err(wrong("image_std"));
        }
        Ok(result)
    }
}

/// `224`, `{"shortest_edge": 224}`, `{"height": 384, "width": 384}`.
fn read_size(size: &Value, shortest: bool) -> Option<Size> {
    let pixels = |value: &Value| {
        let n = value.as_u64().filter(|n| (1..=4096).contains(n))?;
        Some(n as u32)
    };
    if let Some(edge) = size.get("shortest_edge") {
        return Some(Size::ShortestEdge(pixels(edge)?));
    }
    if let (Some(height), Some(width)) = (size.get("height"), size.get("width")) {
        return Some(Size::Exact(pixels(width)?, pixels(height)?));
    }
    let edge = pixels(size)?;
    Some(match shortest {
        true => Size::ShortestEdge(edge),
        false => Size::Exact(edge, edge),
    })
}
