//! The deck's budgets, measured on the built program in a real pseudo-terminal of 200 x 60 with a
//! stream of 10 updates a second, and printed as a table:
//!
//! ```sh
//! cargo bench --bench budgets
//! ```
//!
//! The stream comes from a runner in this process whose trainer only pretends; the step times come
//! from a real run of the demo. Times need a machine that does nothing else. Exit code 1: a budget
//! is exceeded.

use crate::deck::{COLUMNS, ROWS};

mod deck;
mod draw;
mod long_log;
mod pretend;
mod step_time;
mod stream;

/// Steps of the long log and of the long curve.
const LONG: u64 = 1_000_000;

fn main() {
    // `cargo test --benches` runs it as well: nothing is measured in passing.
    if !std::env::args().any(|a| a == "--bench") {
        return;
    }
    let quick = std::env::args().any(|a| a == "--quick");
    let mut table = Table::default();
    draw::draw(&mut table);
    stream::stream(&mut table, if quick { 8 } else { 30 });
    long_log::long_log(&mut table);
    step_time::step_time(&mut table, if quick { 3 } else { 8 });
    table.print();
    std::process::exit(i32::from(table.exceeded()));
}

#[derive(Default)]
struct Table {
    rows: Vec<(String, String, String, bool)>,
}

impl Table {
    fn row(&mut self, what: &str, measured: String, budget: &str, holds: bool) {
        eprintln!("{what}: {measured} (budget {budget})");
        self.rows
            .push((what.into(), measured, budget.into(), holds));
    }

    fn most(&mut self, what: &str, value: f64, budget: f64, unit: &str) {
        let shown = |v: f64| match v {
            0.0 => format!("0 {unit}"),
            v if v < 10.0 => format!("{v:.2} {unit}"),
            v => format!("{v:.0} {unit}"),
        };
        self.row(
            what,
            shown(value),
            &format!("<= {}", shown(budget)),
            value <= budget,
        );
    }

    fn print(&self) {
        println!("\n| budget, {COLUMNS} x {ROWS} | measured | allowed | |\n|---|---|---|---|");
        for (what, measured, budget, holds) in &self.rows {
            let mark = if *holds { "holds" } else { "EXCEEDED" };
            println!("| {what} | {measured} | {budget} | {mark} |");
        }
    }

    fn exceeded(&self) -> bool {
        self.rows.iter().any(|r| !r.3)
    }
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1));
    values.get(at - 1).copied().unwrap_or(f64::NAN)
}
