//! A UNet as a list of steps: the one description that tensors, layers, passes and targets follow.
//!
//! Each step maps the feature map to the next. What a later step needs besides (a skip, the residual
//! of a transformer) is pushed on a stack and taken from its top.

use super::config::UNetConfig;
use super::modules::{Module, conv, linear, norm};

/// A step's place in the UNet and what it does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// diffusers' name of what it belongs to, without the component.
    pub name: String,
    pub kind: StepKind,
    /// Whether its input is pushed before, as [`StepKind::Project`]'s residual.
    pub keeps_input: bool,
    /// Whether it takes the top of the stack.
    pub takes: bool,
    /// Whether its output is pushed, as a skip.
    pub keeps_output: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepKind {
    In,
    /// A residual block; what it takes is joined to its input's channels.
    Residual {
        inputs: usize,
        outputs: usize,
    },
    /// Into a transformer: norm and projection.
    Project {
        channels: usize,
    },
    /// One transformer block.
    Transform {
        channels: usize,
        heads: usize,
    },
    /// Out of a transformer: projection and the residual that it takes.
    Unproject {
        channels: usize,
    },
    Down {
        channels: usize,
    },
    Up {
        channels: usize,
    },
    Out,
}

/// All steps, in order.
pub(super) fn steps(config: &UNetConfig) -> Vec<Step> {
    let mut steps = Vec::new();
    let step = |name: String, kind: StepKind| Step {
        name,
        kind,
        keeps_input: false,
        takes: false,
        keeps_output: false,
    };
    let attention = |steps: &mut Vec<Step>, name: String, channels, heads, depth| {
        if depth == 0 {
            return;
        }
        steps.push(Step {
            keeps_input: true,
            ..step(name.clone(), StepKind::Project { channels })
        });
        for block in 0..depth {
            let name = format!("{name}.transformer_blocks.{block}");
            steps.push(step(name, StepKind::Transform { channels, heads }));
        }
        steps.push(Step {
            takes: true,
            ..step(name, StepKind::Unproject { channels })
        });
    };
    let keep_output = |steps: &mut Vec<Step>| {
        if let Some(last) = steps.last_mut() {
            last.keeps_output = true;
        }
    };
    let blocks = &config.blocks;
    steps.push(step("conv_in".to_owned(), StepKind::In));
    keep_output(&mut steps);
    let mut inputs = blocks[0].channels;
    let mut skips = vec![inputs];
    for (index, block) in blocks.iter().enumerate() {
        let (name, outputs) = (format!("down_blocks.{index}"), block.channels);
        for layer in 0..config.layers_per_block {
            steps.push(step(
                format!("{name}.resnets.{layer}"),
                StepKind::Residual { inputs, outputs },
            ));
            inputs = outputs;
            let name = format!("{name}.attentions.{layer}");
            attention(&mut steps, name, outputs, block.heads, block.depth);
            keep_output(&mut steps);
            skips.push(outputs);
        }
        if index + 1 < blocks.len() {
            let name = format!("{name}.downsamplers.0.conv");
            steps.push(step(name, StepKind::Down { channels: outputs }));
            keep_output(&mut steps);
            skips.push(outputs);
        }
    }
    let inner = blocks[blocks.len() - 1];
    let middle = StepKind::Residual {
        inputs,
        outputs: inner.channels,
    };
    steps.push(step("mid_block.resnets.0".to_owned(), middle));
    let name = "mid_block.attentions.0".to_owned();
    attention(
        &mut steps,
        name,
        inner.channels,
        inner.heads,
        config.middle_depth,
    );
    steps.push(step("mid_block.resnets.1".to_owned(), middle));
    for (index, block) in blocks.iter().rev().enumerate() {
        let (name, outputs) = (format!("up_blocks.{index}"), block.channels);
        for layer in 0..=config.layers_per_block {
            let joined = StepKind::Residual {
                inputs: inputs + skips.pop().unwrap_or(0),
                outputs,
            };
            steps.push(Step {
                takes: true,
                ..step(format!("{name}.resnets.{layer}"), joined)
            });
            inputs = outputs;
            let name = format!("{name}.attentions.{layer}");
            attention(&mut steps, name, outputs, block.heads, block.depth);
        }
        if index + 1 < blocks.len() {
            let name = format!("{name}.upsamplers.0.conv");
            steps.push(step(name, StepKind::Up { channels: outputs }));
        }
    }
    steps.push(step(String::new(), StepKind::Out));
    steps
}

/// The tensors of the whole UNet, in the order of use.
pub(super) fn modules(config: &UNetConfig) -> Vec<Module> {
    let (first, time) = (config.blocks[0].channels, config.time_features());
    let mut all = vec![
        linear("time_embedding.linear_1", first, time, true),
        linear("time_embedding.linear_2", time, time, true),
    ];
    if let Some(addition) = config.addition {
        all.push(linear(
            "add_embedding.linear_1",
            addition.inputs,
            time,
            true,
        ));
        all.push(linear("add_embedding.linear_2", time, time, true));
    }
    for step in steps(config) {
        all.extend(step_modules(config, &step));
    }
    all
}

/// The tensors of a step.
pub(super) fn step_modules(config: &UNetConfig, step: &Step) -> Vec<Module> {
    let first = config.blocks[0].channels;
    let name = |part: &str| format!("{}.{part}", step.name);
    let projection = |part: &str, channels| match config.linear_projection {
        true => linear(&name(part), channels, channels, true),
        false => conv(&name(part), channels, channels, 1),
    };
    match step.kind {
        StepKind::In => vec![conv("conv_in", config.in_channels, first, 3)],
        StepKind::Out => vec![
            norm("conv_norm_out", first),
            conv("conv_out", first, config.out_channels, 3),
        ],
        StepKind::Down { channels } | StepKind::Up { channels } => {
            vec![conv(&step.name, channels, channels, 3)]
        }
        StepKind::Residual { inputs, outputs } => {
            let mut all = residual_modules(&step.name, inputs, outputs);
            let time = linear(
                &name("time_emb_proj"),
                config.time_features(),
                outputs,
                true,
            );
            all.push(time);
            all
        }
        StepKind::Project { channels } => {
            vec![
                norm(&name("norm"), channels),
                projection("proj_in", channels),
            ]
        }
        StepKind::Unproject { channels } => vec![projection("proj_out", channels)],
        StepKind::Transform { channels, .. } => {
            let mut all = Vec::new();
            for (index, attention, context) in
                [(1, "attn1", channels), (2, "attn2", config.context)]
            {
                all.push(norm(&name(&format!("norm{index}")), channels));
                for (leaf, inputs, bias) in [
                    ("to_q", channels, false),
                    ("to_k", context, false),
                    ("to_v", context, false),
                    ("to_out.0", channels, true),
                ] {
                    let leaf = name(&format!("{attention}.{leaf}"));
                    all.push(linear(&leaf, inputs, channels, bias));
                }
            }
            all.push(norm(&name("norm3"), channels));
            all.push(linear(&name("ff.net.0.proj"), channels, 8 * channels, true));
            all.push(linear(&name("ff.net.2"), 4 * channels, channels, true));
            all
        }
    }
}

/// The tensors of a residual block, but for the timestep's.
pub(super) fn residual_modules(name: &str, inputs: usize, outputs: usize) -> Vec<Module> {
    let mut all = vec![
        norm(&format!("{name}.norm1"), inputs),
        conv(&format!("{name}.conv1"), inputs, outputs, 3),
        norm(&format!("{name}.norm2"), outputs),
        conv(&format!("{name}.conv2"), outputs, outputs, 3),
    ];
    if inputs != outputs {
        all.push(conv(&format!("{name}.conv_shortcut"), inputs, outputs, 1));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::config::Kind;
    use super::super::published::unet;
    use super::*;

    /// The published UNets' sizes.
    #[test]
    fn the_plans_of_sd15_and_sdxl_have_their_parameters() {
        let count =
            |config: &UNetConfig| -> u64 { modules(config).iter().map(Module::parameters).sum() };
        assert_eq!(count(&unet(Kind::Sd1)), 859_520_964);
        assert_eq!(count(&unet(Kind::Sdxl)), 2_567_463_684);
    }

    #[test]
    fn what_is_kept_is_taken_again() {
        let steps = steps(&unet(Kind::Sd1));
        let mut stack = 0;
        for step in &steps {
            stack += usize::from(step.keeps_input);
            stack -= usize::from(step.takes);
            stack += usize::from(step.keeps_output);
        }
        assert_eq!(stack, 0);
    }
}
