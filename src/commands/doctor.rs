//! `loradeck doctor`: what this machine and this terminal can do.

use std::fmt::Write as _;
use std::io::IsTerminal;

use anyhow::Result;

use crate::cli::DoctorArgs;
use crate::model::{DeviceRequest, device};
use crate::monitor::{GpuMonitor, HostMonitor};
use crate::printable::write_out;
use crate::protocol::GpuStatus;
use crate::run::folder::host_name;
use crate::run::{logind, socket};
use crate::ui::text::{bytes, count};
use crate::ui::theme::{Capabilities, ColorDepth};

/// How something is.
#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Good,
    Note,
    Bad,
}

/// A line of the report: what, how it is, and what helps.
struct Line {
    topic: &'static str,
    mark: Mark,
    text: String,
    help: String,
}

/// Prints the report; the exit code is 1 when something keeps runs from working.
pub fn run(args: DoctorArgs) -> Result<u8> {
    let lines: Vec<Line> = [program(), devices(), machine(), runs(), terminal()]
        .into_iter()
        .flatten()
        .collect();
    let text = if args.json {
        let all: Vec<_> = lines
            .iter()
            .map(|l| {
                serde_json::json!({
                    "topic": l.topic,
                    "ok": l.mark != Mark::Bad,
                    "text": l.text,
                    "help": l.help,
                })
            })
            .collect();
        format!("{:#}\n", serde_json::Value::from(all))
    } else {
        report(&lines, Capabilities::detect().unicode)
    };
    // `doctor | head` has read enough.
    let _ = write_out(&text);
    Ok(u8::from(lines.iter().any(|l| l.mark == Mark::Bad)))
}

fn report(lines: &[Line], unicode: bool) -> String {
    let mut out = String::new();
    let mut topic = "";
    for line in lines {
        let mark = match (line.mark, unicode) {
            (Mark::Good, true) => "✔",
            (Mark::Good, false) => "ok",
            (Mark::Note, true) => "•",
            (Mark::Note, false) => "--",
            (Mark::Bad, true) => "✖",
            (Mark::Bad, false) => "NO",
        };
        if line.topic != topic {
            topic = line.topic;
            let _ = writeln!(out, "{topic}");
        }
        let _ = writeln!(out, "  {mark} {}", line.text);
        if !line.help.is_empty() {
            let _ = writeln!(out, "      {}", line.help);
        }
    }
    out
}

fn line(topic: &'static str, mark: Mark, text: impl Into<String>) -> Line {
    Line {
        topic,
        mark,
        text: text.into(),
        help: String::new(),
    }
}

fn with_help(mut line: Line, help: impl Into<String>) -> Line {
    line.help = help.into();
    line
}

fn program() -> Vec<Line> {
    let built = if cfg!(feature = "cuda") {
        "built with CUDA"
    } else {
        "built without CUDA: computes on the CPU"
    };
    let text = format!(
        "loradeck {} for {} on {}, {built}",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS
    );
    vec![line("program", Mark::Good, text)]
}

/// The GPUs as the driver tells them, and whether this program computes on one.
fn devices() -> Vec<Line> {
    const TOPIC: &str = "devices";
    let mut lines = Vec::new();
    let mut present = false;
    match GpuMonitor::open().read("", None, None) {
        GpuStatus::NoNvml { reason } => {
            lines.push(line(TOPIC, Mark::Note, format!("no NVML: {reason}")));
        }
        GpuStatus::NoDevice => {
            lines.push(line(TOPIC, Mark::Note, "the driver lists no GPU"));
        }
        GpuStatus::Lost { reason } => {
            let text = format!("the GPU is lost: {reason}");
            lines.push(with_help(
                line(TOPIC, Mark::Bad, text),
                "the driver has given it up; `nvidia-smi` and the system's log say more",
            ));
        }
        GpuStatus::Present { gpus } => {
            present = true;
            for gpu in gpus {
                let mut text = format!(
                    "cuda:{} {}, {} free of {}",
                    gpu.index,
                    gpu.name,
                    bytes(gpu.memory_total.saturating_sub(gpu.memory_used)),
                    bytes(gpu.memory_total)
                );
                if let Some(t) = gpu.temperature {
                    text += &format!(", {t} degrees");
                }
                if !gpu.throttling.is_empty() {
                    text += &format!(", held back: {}", gpu.throttling.join(", "));
                }
                lines.push(line(TOPIC, Mark::Good, text));
            }
        }
    }
    if let Ok(version) = std::fs::read_to_string("/proc/driver/nvidia/version") {
        let first = version.lines().next().unwrap_or_default();
        let driver = first.split_whitespace().find(|w| {
            w.split('.').count() >= 2 && w.chars().all(|c| c.is_ascii_digit() || c == '.')
        });
        let text = format!("NVIDIA driver {}", driver.unwrap_or(first));
        lines.push(line(TOPIC, Mark::Good, text));
    }
    lines.push(match (cfg!(feature = "cuda"), present) {
        (true, true) => match device(DeviceRequest::Cuda(0)) {
            Ok(_) => line(TOPIC, Mark::Good, "computes on cuda:0"),
            Err(e) => line(TOPIC, Mark::Bad, format!("{e:#}")),
        },
        (false, true) => with_help(
            line(
                TOPIC,
                Mark::Bad,
                "a GPU is there, and this program was built without CUDA",
            ),
            "build it with `cargo build --release --features cuda`",
        ),
        (_, false) => line(TOPIC, Mark::Good, "computes on the CPU"),
    });
    lines
}

fn machine() -> Vec<Line> {
    const TOPIC: &str = "machine";
    let reading = HostMonitor::new(std::path::Path::new(".")).read();
    let mut lines = vec![line(
        TOPIC,
        Mark::Good,
        format!(
            "{}: {} cores, {} of {} memory free",
            host_name(),
            reading.cores,
            bytes(reading.memory_total.saturating_sub(reading.memory_used)),
            bytes(reading.memory_total)
        ),
    )];
    let disk = format!(
        "{} free on the disk of this folder",
        bytes(reading.disk_free)
    );
    lines.push(if reading.disk_free < 1 << 30 {
        with_help(
            line(TOPIC, Mark::Bad, disk),
            "checkpoints and exports need room: free some space, or set another output_dir",
        )
    } else {
        line(TOPIC, Mark::Good, disk)
    });
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let text = match files.current {
        Some(n) => format!("{} open files allowed", count(n)),
        None => "any number of open files allowed".to_owned(),
    };
    lines.push(match files.current {
        Some(n) if n < 256 => with_help(
            line(TOPIC, Mark::Bad, text),
            "sharded bases and many decks need more: `ulimit -n 1024`",
        ),
        _ => line(TOPIC, Mark::Good, text),
    });
    lines
}

/// Whether a run can be detached and found again.
fn runs() -> Vec<Line> {
    const TOPIC: &str = "runs";
    let mut lines = vec![match socket::place() {
        Ok(folder) => line(
            TOPIC,
            Mark::Good,
            format!("control sockets lie in {}", folder.display()),
        ),
        Err(e) => with_help(
            line(TOPIC, Mark::Bad, format!("{e:#}")),
            "without a socket no deck can attach: set XDG_RUNTIME_DIR to a private folder",
        ),
    }];
    lines.push(match logind::kills_user_processes() {
        Some(warning) => line(TOPIC, Mark::Bad, warning),
        None => line(TOPIC, Mark::Good, "runs outlive a logout"),
    });
    lines.push(match which("ssh") {
        true => line(
            TOPIC,
            Mark::Good,
            "ssh is installed: `loradeck attach ssh://host/path`",
        ),
        false => line(
            TOPIC,
            Mark::Note,
            "ssh is not installed: no attaching to other machines",
        ),
    });
    lines
}

fn terminal() -> Vec<Line> {
    const TOPIC: &str = "terminal";
    let mut lines = Vec::new();
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        lines.push(line(TOPIC, Mark::Note, "none: runs are headless here"));
    } else if let Ok((columns, rows)) = crate::ui::terminal_size() {
        let text = format!("{columns} x {rows} characters");
        lines.push(if columns < 40 || rows < 12 {
            with_help(line(TOPIC, Mark::Bad, text), "the deck needs 40 x 12")
        } else {
            line(TOPIC, Mark::Good, text)
        });
    }
    let can = Capabilities::detect();
    let colours = match can.depth {
        ColorDepth::None => "no colours",
        ColorDepth::Ansi => "16 colours",
        ColorDepth::Indexed => "256 colours",
        ColorDepth::True => "all colours",
    };
    let term = std::env::var("TERM").unwrap_or_else(|_| "not set".to_owned());
    lines.push(with_help(
        line(TOPIC, Mark::Good, format!("{colours} (TERM {term})")),
        match can.depth {
            ColorDepth::Ansi | ColorDepth::Indexed => {
                "COLORTERM=truecolor, where the terminal has them (ssh often loses it)"
            }
            _ => "",
        },
    ));
    lines.push(if can.unicode {
        line(TOPIC, Mark::Good, "UTF-8")
    } else {
        with_help(
            line(
                TOPIC,
                Mark::Note,
                "no UTF-8 locale: the deck draws in ASCII",
            ),
            "LC_ALL=C.UTF-8 gives the finer charts",
        )
    });
    if std::env::var_os("TMUX").is_some() {
        lines.push(line(TOPIC, Mark::Good, "inside tmux"));
    }
    lines
}

fn which(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}
