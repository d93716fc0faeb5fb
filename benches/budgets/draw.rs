//! How long a frame takes to draw when the run is a million steps long: the charts alone decide.

use std::time::Instant;

use loradeck::protocol::{Event, EventKind, RunState};
use loradeck::run::link::Update;
use loradeck::ui::app::{App, Msg, Setup};
use loradeck::ui::keymap::Keymap;
use loradeck::ui::lang::Lang;
use loradeck::ui::screen::Screen;
use loradeck::ui::theme::{Capabilities, Catalogue, ColorDepth};
use loradeck::ui::view;

use crate::deck::{COLUMNS, ROWS};
use crate::pretend::step;
use crate::{LONG, Table, percentile};

/// Frames that are drawn.
const FRAMES: u64 = 300;

/// Draws frames of a deck, each after another step, and encodes them for a terminal that swallows
/// them.
pub fn draw(table: &mut Table) {
    let mut state = RunState::default();
    let event = |seq: u64| Event {
        seq,
        time: seq as f64 * 0.1,
        kind: EventKind::Step(step(seq)),
    };
    for seq in 1..=LONG {
        state.apply(&event(seq));
    }
    let capabilities = Capabilities {
        depth: ColorDepth::True,
        unicode: true,
    };
    let setup = Setup {
        themes: Catalogue::built_in(capabilities),
        keymap: Keymap::default(),
        problems: Vec::new(),
        sender: "budgets".into(),
        readonly: false,
        lang: Lang::English,
        bell: false,
    };
    let mut app = App::new((COLUMNS, ROWS), 0.0, setup);
    app.update(0.0, Msg::Update(Update::Snapshot(Box::new(state))));
    let mut screen = Screen::new(std::io::sink());
    let mut times: Vec<f64> = (LONG + 1..=LONG + FRAMES)
        .map(|seq| {
            let event = Box::new(event(seq));
            app.update(seq as f64 * 0.1, Msg::Update(Update::Event(event)));
            let start = Instant::now();
            let drawn = screen.draw(app.size, |buf| {
                let area = *buf.area();
                view::draw(&app, &app.theme, area, buf);
            });
            drawn.expect("nothing refuses bytes here");
            start.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    let middle = percentile(&mut times, 0.5);
    table.most("draw, 1,000,000 steps, median", middle, 5.0, "ms");
    let worst = percentile(&mut times, 0.99);
    table.most("draw, 1,000,000 steps, p99", worst, 5.0, "ms");
}
