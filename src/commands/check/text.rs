//! The report for a person.

use std::fmt::Write;
use std::path::Path;

use unicode_width::UnicodeWidthStr;

use super::examine::{Data, Fit, Report, Rows};
use super::findings;
use super::images;
use super::trial::Step;
use crate::commands::bytes;
use crate::config::Problem;
use crate::protocol::Severity;

/// What the terminal can show.
pub(super) struct Look {
    pub unicode: bool,
}

impl Look {
    /// By the locale, as terminals themselves decide.
    pub fn of_terminal() -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_lowercase();
        Look {
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }
}

/// Everything but the last line.
pub(super) fn report(report: &Report, look: &Look) -> String {
    let mut out = String::new();
    for (word, problems) in [("error", &report.problems), ("warning", &report.warnings)] {
        for problem in problems {
            write_problem(&mut out, word, problem);
        }
    }
    if let Some(loaded) = &report.loaded {
        heading(&mut out, "Config");
        let width = |f: fn(&crate::protocol::ConfigEntry) -> &str| {
            let widths = loaded.entries.iter().map(|e| f(e).width().min(48));
            widths.max().unwrap_or(0)
        };
        let (keys, values) = (width(|e| &e.key), width(|e| &e.value));
        for entry in &loaded.entries {
            let value = shortened(&entry.value, values.max(20));
            let space = " ".repeat(values.saturating_sub(value.width()));
            let _ = writeln!(
                out,
                "  {:keys$}  {value}{space}  {}",
                entry.key, entry.source
            );
        }
    }
    if let Some(base) = &report.base {
        heading(&mut out, "Base");
        let config = &base.config;
        let _ = writeln!(
            out,
            "  {}: {}, {} parameters in {} ({}, {})",
            relative(Path::new(&base.name)),
            config.architecture,
            grouped(base.parameters),
            base.dtype,
            base.format,
            bytes(base.bytes)
        );
        let _ = writeln!(
            out,
            "  {} layers, hidden size {}, {} heads ({} for keys and values), vocabulary {}, made \
             for {} tokens",
            config.layers,
            config.hidden_size,
            config.heads,
            config.kv_heads,
            grouped(config.vocab_size as u64),
            grouped(config.max_position_embeddings as u64)
        );
        for note in &base.notes {
            let _ = writeln!(out, "  note: {note}");
        }
    }
    if let Some(base) = &report.image_base {
        heading(&mut out, "Base");
        let _ = writeln!(
            out,
            "  {}: {}, {} parameters in {} ({}, {}), made for {}x{} pixels",
            relative(Path::new(&base.name)),
            base.kind.name(),
            grouped(base.parameters),
            base.dtype,
            base.format,
            bytes(base.bytes),
            base.side,
            base.side
        );
        for note in &base.notes {
            let _ = writeln!(out, "  note: {note}");
        }
    }
    if let Some(data) = &report.data {
        heading(&mut out, "Data");
        write_data(&mut out, data, look);
        findings::write(&mut out, &data.statistics.findings);
    }
    if let Some(adapter) = &report.adapter {
        heading(&mut out, "Adapter");
        let spec = &adapter.spec;
        let _ = writeln!(
            out,
            "  rank {}{} on {} ({}){}: {} parameters",
            spec.rank,
            if spec.use_dora { " with DoRA" } else { "" },
            plural(adapter.modules as u64, "module"),
            shortened(&spec.target_modules.join(", "), 60),
            if spec.share_layers {
                ", A and B shared by all layers"
            } else {
                ""
            },
            grouped(adapter.parameters)
        );
    }
    write_run(&mut out, report);
    out
}

fn write_run(out: &mut String, report: &Report) {
    let Some(config) = report.loaded.as_ref().map(|l| &l.config) else {
        return;
    };
    if let Some(plan) = report.plan {
        heading(out, "Run");
        let rows = config.batch_size * config.gradient_accumulation_steps;
        let _ = writeln!(
            out,
            "  {} in all, {} an epoch; {} a step",
            plural(plan.total_steps, "step"),
            grouped(plan.steps_per_epoch),
            plural(rows as u64, if config.packing { "row" } else { "record" })
        );
    }
    if let Some(memory) = &report.memory {
        let part = memory.estimate;
        let verdict = match (memory.fit(), memory.available) {
            (Some(fit), Some(available)) => format!(
                " of {} available: {}",
                bytes(available),
                match fit {
                    Fit::Safe => "safe",
                    Fit::Tight => "tight",
                    Fit::Exceeds => "will not fit",
                }
            ),
            _ => String::new(),
        };
        let _ = writeln!(out, "  memory: about {}{verdict}", bytes(part.total()));
        let _ = writeln!(
            out,
            "    program and tokenizer {}, base {}, adapter and gradients {}, optimizer {}, \
             activations {} ({}){}{}",
            bytes(part.program),
            bytes(part.weights),
            bytes(part.adapter),
            bytes(part.optimizer),
            bytes(part.activations),
            match memory.rows {
                Rows::Tokens(tokens) => format!("rows of {} tokens", grouped(tokens as u64)),
                Rows::Pixels(width, height) => format!("pictures of {width}x{height}"),
            },
            match part.logits {
                0 => String::new(),
                logits => format!(", logits {}", bytes(logits)),
            },
            match part.pictures {
                0 => String::new(),
                pictures => format!(
                    "; encoding pictures and captions, or decoding a sample, {} at a time of its own",
                    bytes(pictures)
                ),
            }
        );
    }
    if let Some(disk) = &report.disk {
        let _ = writeln!(
            out,
            "  disk: {} of about {}, an export of {}; {} free",
            plural(disk.checkpoints, "checkpoint"),
            bytes(disk.checkpoint_bytes),
            bytes(disk.export_bytes),
            bytes(disk.free_bytes)
        );
        let formats: Vec<&str> = config
            .export_formats
            .iter()
            .map(|f| crate::train::adapter_format(*f).name())
            .collect();
        let _ = writeln!(
            out,
            "  export: {} into {}, possible",
            formats.join(", "),
            relative(&config.output_dir.join("exports"))
        );
    }
}

fn write_data(out: &mut String, data: &Data, look: &Look) {
    let (data, captions) = (&data.statistics, &data.captions);
    if let Some(found) = &data.images {
        return images::write(out, data, found, captions, look);
    }
    let formats: Vec<String> = data
        .formats
        .iter()
        .map(|(format, count)| format!("{} {format}", grouped(*count)))
        .collect();
    let records = data.train_records + data.eval_records;
    let _ = writeln!(
        out,
        "  {} in {} ({}): {} to train on, {} held out",
        plural(records, "record"),
        plural(data.files, "file"),
        formats.join(", "),
        grouped(data.train_records),
        grouped(data.eval_records)
    );
    if !data.held_out_files.is_empty() {
        let names = shortened(&data.held_out_files.join(", "), 100);
        let _ = writeln!(out, "  held out because of their names: {names}");
    }
    let share = 100.0 * data.trained_tokens as f64 / data.tokens.max(1) as f64;
    let _ = writeln!(
        out,
        "  {} tokens, {} of them trained on ({share:.0} %)",
        grouped(data.tokens),
        grouped(data.trained_tokens)
    );
    let _ = writeln!(
        out,
        "  tokens of a record: {} to {}, median {}, 95 % up to {}; {} cut{}, {} repeated, {} left out",
        data.min_length,
        data.max_length,
        data.median_length,
        data.p95_length,
        data.truncated,
        match data.cut_tokens {
            0 => String::new(),
            tokens => format!(" (by {} tokens)", grouped(tokens)),
        },
        data.duplicates,
        data.skipped
    );
    if let Some(packing) = data.packing {
        let _ = writeln!(
            out,
            "  packed into {} of up to {} tokens, {:.0} % full",
            plural(packing.rows, "row"),
            grouped(packing.row_tokens),
            100.0 * packing.filled()
        );
    }
    let most = data.lengths.iter().map(|b| b.count).max().unwrap_or(0);
    let bar = if look.unicode { "█" } else { "#" };
    for bucket in &data.lengths {
        let range = match bucket.to - bucket.from {
            1 => bucket.from.to_string(),
            _ => format!("{}-{}", bucket.from, bucket.to - 1),
        };
        let length = (bucket.count * 40).div_ceil(most.max(1)) as usize;
        let line = format!("  {range:>13} {} {}", bar.repeat(length), bucket.count);
        let _ = writeln!(out, "{line}");
    }
}

/// One step of a trial.
pub(super) fn trial_step(step: &Step, look: &Look) -> String {
    let mark = match (step.outcome.is_ok(), look.unicode) {
        (true, true) => "✓",
        (true, false) => "ok",
        (false, true) => "✗",
        (false, false) => "FAILED",
    };
    let (Ok(detail) | Err(detail)) = &step.outcome;
    let heading = if step.first { "\nTrial\n" } else { "" };
    format!(
        "{heading}  {mark} {:<22} {:>7.2} s  {}\n",
        step.name,
        step.seconds,
        shortened(detail, 200)
    )
}

/// The last line.
pub(super) fn verdict(report: &Report, tried: bool) -> String {
    let found = |severity| findings::count(report.findings(), severity);
    let wrong = found(Severity::Wrong);
    let problems = plural(report.problems.len() as u64 + wrong, "error");
    let warnings = report.warnings.len() as u64 + found(Severity::Warning);
    let warnings = plural(warnings, "warning");
    let config = report.path.display();
    if !report.problems.is_empty() || wrong > 0 {
        let untried = if tried { "; not tried out" } else { "" };
        return format!("\n{config}: {problems}, {warnings}{untried}\n");
    }
    if report.trial.iter().any(|step| step.outcome.is_err()) {
        return format!("\n{config}: the trial failed, {warnings}\n");
    }
    let done = if tried { "tried out, " } else { "" };
    format!("\n{config}: {done}no errors, {warnings}; start it with `loradeck train {config}`\n")
}

fn write_problem(out: &mut String, word: &str, problem: &Problem) {
    let place = match problem.line {
        0 => relative(&problem.path),
        line => format!("{}:{line}:{}", relative(&problem.path), problem.column),
    };
    let _ = writeln!(out, "{place}: {word}: {}", problem.message);
    if !problem.fix.is_empty() {
        let _ = writeln!(out, "    fix: {}", problem.fix);
    }
}

pub(super) fn heading(out: &mut String, title: &str) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(title);
    out.push('\n');
}

/// The path as seen from the working directory, where it lies below that.
fn relative(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let below = path.strip_prefix(&here).ok();
    below
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(path)
        .display()
        .to_string()
}

fn shortened(text: &str, width: usize) -> String {
    let one_line = text.replace(['\n', '\r'], " ");
    if one_line.width() <= width {
        return one_line;
    }
    let mut out = String::new();
    for c in one_line.chars() {
        if out.width() + 4 > width {
            break;
        }
        out.push(c);
    }
    out + "..."
}

pub(super) fn plural(count: u64, word: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {word}{s}", grouped(count))
}

/// 1,234,567.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(plural(1, "step"), "1 step");
        assert_eq!(shortened("a\nb", 10), "a b");
        assert_eq!(shortened("abcdefghij", 8), "abcde...");
    }
}
