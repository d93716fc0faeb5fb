//! `loradeck bench`: measures how a config trains.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use anyhow::{Context, Result};

use super::bytes;
use super::fetch;
use super::scratch::Scratch;
use crate::cli::BenchArgs;
use crate::config;
use crate::printable::write_out;
use crate::train::bench::{Measurement, Plan, measure};

pub fn run(args: BenchArgs) -> Result<u8> {
    let started = Instant::now();
    fetch::named_in(&args.config, &args.sets)?;
    let loaded = config::load(&args.config, &args.sets)
        .map_err(|problems| config::problems_error(&problems))?;
    let plan = Plan {
        warmup: args.warmup,
        steps: args.steps,
    };
    let scratch = Scratch::new("bench")?;
    let terminal = std::io::stderr().is_terminal();
    let on_step = |count: u64, seconds: f64| {
        if terminal {
            let all = args.warmup + args.steps;
            let _ = write!(std::io::stderr(), "\rstep {count}/{all}  {seconds:.2} s ");
        }
    };
    let measured = measure(&loaded.config, plan, &scratch.folders(), started, &on_step);
    if terminal {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let measured = measured?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&measured)? + "\n",
        false => table(&measured),
    };
    match write_out(&text) {
        // `bench | head -1` closes stdout early.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(e).context("writing to stdout")?;
        }
        _ => {}
    }
    Ok(0)
}

fn table(m: &Measurement) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<16}{value}");
    };
    line("base", m.base.clone());
    let threads = match m.device.as_str() {
        "cpu" => format!(", {} threads", m.threads),
        _ => String::new(),
    };
    line("device", format!("{}{threads}", m.device));
    let accumulated = match m.gradient_accumulation_steps {
        1 => String::new(),
        n => format!(" x {n} micro-batches"),
    };
    let size = match (m.sequence_len, m.tokens_per_step, m.resolution) {
        (Some(length), Some(tokens), _) => {
            format!("at most {length} tokens: {tokens:.0} tokens")
        }
        (_, _, side) => format!("about {0}x{0} pixels", side.unwrap_or(0)),
    };
    line(
        "a step",
        format!(
            "{} records{accumulated} of {}; recomputation {}",
            m.batch_size,
            size,
            if m.gradient_checkpointing {
                "on"
            } else {
                "off"
            }
        ),
    );
    let speed = match (m.tokens_per_second, m.images_per_second) {
        (Some(tokens), _) => format!("{tokens:.1} tokens/s"),
        (None, images) => format!("{:.3} images/s", images.unwrap_or(0.0)),
    };
    line("speed", speed);
    line(
        "step",
        format!(
            "median {:.3} s, 95 % within {:.3} s ({} measured)",
            m.step_seconds.median, m.step_seconds.p95, m.steps
        ),
    );
    line("peak memory", bytes(m.peak_memory_bytes));
    line(
        "start",
        format!(
            "{:.2} s to load, {:.2} s to the end of the first step",
            m.load_seconds, m.first_step_seconds
        ),
    );
    let products = format!(
        "{:.1} GFLOP a step, {:.1} GFLOP/s",
        m.flops_per_step * 1e-9,
        m.flops_per_second * 1e-9
    );
    line(
        "products",
        format!(
            "{products}: {:.0} % of the {:.1} that products alone reach here",
            m.gemm_share * 100.0,
            m.gemm_flops_per_second * 1e-9
        ),
    );
    for (i, part) in m.parts.iter().enumerate() {
        line(
            if i == 0 { "time of a step" } else { "" },
            format!(
                "{:<16}{:>5.1} %  {:.3} s",
                part.name,
                part.share * 100.0,
                part.seconds
            ),
        );
    }
    out
}
