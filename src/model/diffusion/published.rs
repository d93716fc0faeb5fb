//! The published bases' shapes, for tests: Stable Diffusion 1.5 and XL.

use super::config::{
    Addition, ClipConfig, Kind, NoiseSchedule, Prediction, UNetBlock, UNetConfig, VaeConfig,
};
use super::source::Description;
use super::{clip, plan, vae};
use crate::ops::Activation;

/// That of Stable Diffusion 1.5, or of XL.
pub(crate) fn unet(kind: Kind) -> UNetConfig {
    let block = |channels, depth, heads| UNetBlock {
        channels,
        depth,
        heads,
    };
    let sd15 = UNetConfig {
        in_channels: 4,
        out_channels: 4,
        blocks: vec![
            block(320, 1, 8),
            block(640, 1, 8),
            block(1280, 1, 8),
            block(1280, 0, 8),
        ],
        layers_per_block: 2,
        middle_depth: 1,
        context: 768,
        linear_projection: false,
        groups: 32,
        eps: 1e-5,
        addition: None,
    };
    match kind {
        Kind::Sdxl => UNetConfig {
            blocks: vec![block(320, 0, 5), block(640, 2, 10), block(1280, 10, 20)],
            middle_depth: 10,
            context: 2048,
            linear_projection: true,
            addition: Some(Addition {
                time_features: 256,
                inputs: 2816,
            }),
            ..sd15
        },
        Kind::Sd1 | Kind::Sd2 => sd15,
    }
}

/// The whole base, in f16.
pub(crate) fn base(kind: Kind) -> Description {
    let large = ClipConfig {
        vocab_size: 49408,
        width: 768,
        intermediate: 3072,
        layers: 12,
        heads: 12,
        positions: 77,
        activation: Activation::QuickGelu,
        eps: 1e-5,
        projection: None,
    };
    let big = ClipConfig {
        width: 1280,
        intermediate: 5120,
        layers: 32,
        heads: 20,
        activation: Activation::Gelu,
        projection: Some(1280),
        ..large.clone()
    };
    let (unet, vae) = (
        unet(kind),
        VaeConfig {
            latent_channels: 4,
            blocks: vec![128, 256, 512, 512],
            layers_per_block: 2,
            groups: 32,
            scaling_factor: 0.18215,
        },
    );
    let text = match kind {
        Kind::Sdxl => vec![large, big],
        Kind::Sd1 | Kind::Sd2 => vec![large],
    };
    let of_text = text.iter().flat_map(clip::modules);
    let all = plan::modules(&unet).into_iter().chain(vae::modules(&vae));
    let parameters: u64 = all.chain(of_text).map(|module| module.parameters()).sum();
    Description {
        name: "published".into(),
        format: "safetensors".into(),
        dtype: "F16".into(),
        kind,
        prediction: Prediction::Epsilon,
        noise: NoiseSchedule::default(),
        parameters,
        bytes: 2 * parameters,
        files: Vec::new(),
        notes: Vec::new(),
        unet,
        text,
        vae,
        side: if kind == Kind::Sdxl { 1024 } else { 512 },
    }
}
