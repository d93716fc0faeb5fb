//! Home: its screens from made-up answers, and what keys do in it.

use std::path::PathBuf;

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};
use loradeck::protocol::{Num, PhaseName, QueueState, RunCurves};
use loradeck::ui::home::app::{Action, Home, HomeLeave, Msg};
use loradeck::ui::home::desk::*;
use loradeck::ui::home::view;
use loradeck::ui::lang::Lang;
use loradeck::ui::theme::{Capabilities, Catalogue, ColorDepth};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

const NOW: f64 = 1_760_000_000.0;
const SIZES: [(u16, u16); 4] = [(200, 60), (120, 40), (80, 24), (40, 12)];

struct Screen {
    home: Home,
    actions: Vec<Action>,
}

impl Screen {
    fn empty(size: (u16, u16), lang: Lang) -> Screen {
        let themes = Catalogue::built_in(Capabilities {
            depth: ColorDepth::True,
            unicode: true,
        });
        Screen {
            home: Home::new(size, NOW, themes, lang),
            actions: Vec::new(),
        }
    }

    fn new(size: (u16, u16), lang: Lang) -> Screen {
        let mut screen = Screen::empty(size, lang);
        screen.send(Msg::Looked(Ok(overview())));
        for (config, checked) in checks() {
            screen.send(Msg::Checked { config, checked });
        }
        screen
    }

    fn send(&mut self, msg: Msg) {
        let actions = self.home.update(self.home.now, msg);
        self.actions.extend(actions);
    }

    fn keys(&mut self, keys: &str) {
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\x1b' => KeyCode::Esc,
                '↓' => KeyCode::Down,
                '→' => KeyCode::Right,
                c => KeyCode::Char(c),
            };
            let key = KeyEvent::new(code, KeyModifiers::NONE);
            self.send(Msg::Input(Input::Key(key)));
        }
    }

    fn did(&mut self) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.actions);
        actions.retain(|a| !matches!(a, Action::Check(_)));
        actions
    }

    fn text(&self) -> String {
        let area = Rect::new(0, 0, self.home.size.0, self.home.size.1);
        let mut buf = Buffer::empty(area);
        view::draw(&self.home, area, &mut buf);
        let mut out = String::new();
        for y in 0..area.height {
            let mut line = String::new();
            let mut skip = 0;
            for x in 0..area.width {
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                let symbol = buf[(x, y)].symbol();
                skip = unicode_width::UnicodeWidthStr::width(symbol).saturating_sub(1);
                line.push_str(symbol);
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

fn run(name: &str, phase: PhaseName, alive: bool, step: u64) -> RunLine {
    RunLine {
        folder: format!("output/{name}").into(),
        name: name.into(),
        phase,
        alive,
        step,
        total_steps: 324,
        loss: Some(0.1029),
        eval: Some(0.17),
        curve: (0..64).map(|i| 9.0 / (1.0 + f64::from(i) / 4.0)).collect(),
        started: NOW - 7300.0,
        changed: NOW - 3.0,
        base: "/models/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
        data: "/data/medical_qa".into(),
        config: Some("configs/clinic.yaml".into()),
        revision: Some("0123456789abcdef0123-dirty".into()),
        ..RunLine::default()
    }
}

fn config(name: &str) -> ConfigLine {
    ConfigLine {
        path: format!("configs/{name}.yaml").into(),
        stamp: 1,
    }
}

fn entry(id: u64, name: &str, state: QueueState) -> QueueLine {
    QueueLine {
        id,
        config: format!("/home/ada/configs/{name}.yaml").into(),
        run_dir: format!("output/{name}").into(),
        state,
        error: (state == QueueState::Failed)
            .then(|| "train_data_dir: /data/gone is not there".into()),
        started: Some(NOW - 400.0),
        ended: state.is_over().then_some(NOW - 100.0),
    }
}

fn overview() -> Overview {
    let mut failed = run(
        "long name of a run that failed early",
        PhaseName::Failed,
        false,
        12,
    );
    failed.error = Some("the loss is not finite in 5 steps in a row".into());
    failed.loss = Some(f64::NAN);
    failed.changed = NOW - 90_000.0;
    let mut wide = run("诊所风格", PhaseName::Done, false, 324);
    wide.exports = vec!["/home/ada/output/诊所风格/exports/peft".into()];
    wide.changed = NOW - 5000.0;
    Overview {
        folder: "output".into(),
        runs: vec![run("clinic", PhaseName::Training, true, 306), wide, failed],
        configs: vec![config("clinic"), config("broken"), config("unread")],
        queue: vec![
            entry(1, "first", QueueState::Done),
            entry(2, "second", QueueState::Failed),
            entry(3, "clinic", QueueState::Running),
            entry(4, "fourth", QueueState::Waiting),
            entry(5, "fifth", QueueState::Waiting),
        ],
        queue_runs: true,
        queue_ends: false,
    }
}

fn memory() -> Memory {
    Memory {
        weights: 92 << 20,
        adapter: 7 << 20,
        optimizer: 7 << 20,
        activations: 700 << 20,
        logits: 48 << 20,
        available: Some(1 << 30),
        fit: Some(Fit::Tight),
        pictures: 0,
        rows: Rows::Tokens(212),
        batches: vec![
            (2, 500 << 20, Some(Fit::Safe)),
            (8, 1600 << 20, Some(Fit::Exceeds)),
        ],
    }
}

fn good() -> Checked {
    Checked {
        warnings: vec![Finding {
            line: 3,
            key: "batch_size".into(),
            text: "the run's memory is tight".into(),
            fix: "write a smaller `batch_size`".into(),
        }],
        facts: Some(Facts {
            run_dir: "/home/ada/output/clinic".into(),
            base: "llama".into(),
            base_parameters: 134_515_008,
            adapter_parameters: 921_600,
            records: 480,
            steps: 324,
            memory: Some(memory()),
        }),
        ..Checked::default()
    }
}

fn checks() -> Vec<(ConfigLine, Checked)> {
    let broken = Checked {
        errors: vec![
            Finding {
                line: 4,
                key: "lora_r".into(),
                text: "`lora_r` is called `lora_rank` here".into(),
                fix: "write `lora_rank`".into(),
            },
            Finding {
                text: "`base_model` is missing".into(),
                ..Finding::default()
            },
        ],
        ..Checked::default()
    };
    vec![(config("clinic"), good()), (config("broken"), broken)]
}

fn suggestion() -> Suggestion {
    let advice = |value, why| Advice { value, why };
    Suggestion {
        base: "llama, 135M in Q4_1, 30 layers, made for 8,192 tokens".into(),
        data: "480 records (messages), 38.2k tokens, 20.1k trained on".into(),
        quantised: true,
        row: Row::Tokens(advice(256, Why::Longest { tokens: 212 })),
        batch_size: advice(
            4,
            Why::Fits {
                bytes: 854 << 20,
                available: 1 << 30,
                more: Some(1600 << 20),
            },
        ),
        gradient_accumulation_steps: advice(2, Why::StepOf { records: 8 }),
        epochs: advice(5, Why::Records { records: 480 }),
        eval_steps: advice(32, Why::Times { times: 10 }),
        save_steps: advice(32, Why::Times { times: 10 }),
        prompt: Some("What helps against a cough?".into()),
    }
}

fn comparison() -> Comparison {
    let run = |name: &str, steps: u64, slope: f64| {
        let mut curves = RunCurves {
            run: name.into(),
            phase: PhaseName::Done,
            step: steps,
            total_steps: steps,
            evals: vec![(steps / 2, Num(0.4)), (steps, Num(0.2))],
            ..RunCurves::default()
        };
        for step in 1..=steps {
            let loss = 0.1 + slope / (1.0 + step as f64 / 20.0);
            curves.loss.push(step, loss);
            curves.tokens.push(step, step as f64 * 500.0);
            curves.seconds.push(step, step as f64 * 0.2);
        }
        ComparedRun {
            name: name.into(),
            curves,
            last_loss: Some(0.1 + slope / (1.0 + steps as f64 / 20.0)),
            eval: Some(0.2),
            tokens_per_second: Some(4880.0),
            seconds: 65.0,
            peak_memory: 57 << 20,
            revision: Some("0123456789abcdef".into()),
            program: "0.1.0".into(),
        }
    };
    let some = |v: &str| Some(v.to_owned());
    Comparison {
        runs: vec![run("clinic", 324, 9.0), run("诊所风格", 160, 5.0)],
        keys: vec![
            ("lora_rank".into(), vec![some("8"), some("32")]),
            ("use_rslora".into(), vec![None, some("true")]),
            (
                "train_data_dir".into(),
                vec![
                    some("\"/home/ada/data/clinic\""),
                    some("\"/home/ada/data/诊所\""),
                ],
            ),
        ],
    }
}

fn at_every_size(name: &str, screen: impl Fn((u16, u16)) -> Screen) {
    for size in SIZES {
        insta::assert_snapshot!(format!("{name}_{}x{}", size.0, size.1), screen(size).text());
    }
}

#[test]
fn runs_configs_and_queue_on_one_screen() {
    at_every_size("home", |size| Screen::new(size, Lang::English));
    at_every_size("home_configs", |size| {
        let mut screen = Screen::new(size, Lang::English);
        screen.keys("2↓");
        screen
    });
    at_every_size("home_queue", |size| {
        let mut screen = Screen::new(size, Lang::English);
        screen.keys("3↓");
        screen
    });
    let chinese = Screen::new((120, 40), Lang::Chinese);
    insta::assert_snapshot!("home_chinese", chinese.text());
}

#[test]
fn nothing_is_there_yet() {
    let mut screen = Screen::empty((80, 24), Lang::English);
    insta::assert_snapshot!("home_looking", screen.text());
    screen.send(Msg::Looked(Ok(Overview {
        folder: "output".into(),
        ..Overview::default()
    })));
    insta::assert_snapshot!("home_empty", screen.text());
    screen.send(Msg::Looked(Err(
        "cannot list output: permission denied".into()
    )));
    assert!(screen.text().contains("no run yet"), "the last look stays");
}

#[test]
fn the_form_shows_what_fits_the_check_and_the_file() {
    at_every_size("form", |size| {
        let mut screen = Screen::new(size, Lang::English);
        screen.home.bases = vec!["./models/SmolLM2-135M-Instruct.Q4_1.gguf".into()];
        screen.home.data = vec!["./data/medical_qa".into()];
        screen.keys("n");
        screen.send(Msg::Suggested {
            base: "./models/SmolLM2-135M-Instruct.Q4_1.gguf".into(),
            data: "./data/medical_qa".into(),
            suggestion: Ok(suggestion()),
        });
        let generation = match &screen.home.page {
            loradeck::ui::home::app::Page::Form(form) => form.generation,
            page => panic!("{page:?}"),
        };
        screen.send(Msg::TextChecked {
            generation,
            checked: good(),
        });
        screen.keys("↓↓↓↓↓");
        screen
    });
}

#[test]
fn two_runs_side_by_side() {
    at_every_size("compare", |size| {
        let mut screen = Screen::new(size, Lang::English);
        screen.send(Msg::Compared(Ok(comparison())));
        screen
    });
    let mut screen = Screen::new((120, 40), Lang::English);
    screen.send(Msg::Compared(Ok(comparison())));
    screen.keys("aL");
    insta::assert_snapshot!("compare_tokens_log", screen.text());
}

#[test]
fn questions_stand_over_the_screen() {
    let mut screen = Screen::new((80, 24), Lang::English);
    screen.keys("↓d");
    insta::assert_snapshot!("home_delete", screen.text());
    screen.keys("\x1b2\n");
    insta::assert_snapshot!("home_start", screen.text());
    screen.keys("\x1b3S");
    insta::assert_snapshot!("home_stop_queue", screen.text());
    screen.keys("\x1b?");
    insta::assert_snapshot!("home_help", screen.text());
}

#[test]
fn keys_do_what_the_hints_say() {
    let mut screen = Screen::new((120, 40), Lang::English);
    screen.did();
    screen.keys("\n");
    let attach = |name: &str| Action::Leave(HomeLeave::Attach(PathBuf::from(name)));
    assert_eq!(screen.did(), [attach("output/clinic")]);
    screen.keys("d");
    assert!(screen.did().is_empty(), "a live run is not deleted");
    screen.keys("↓d\n");
    assert!(screen.did().is_empty(), "a plain Enter keeps the run");
    screen.keys("dy");
    assert_eq!(
        screen.did(),
        [Action::Act(Deed::Delete("output/诊所风格".into()))]
    );
    screen.keys("c");
    assert!(screen.did().is_empty(), "nothing is marked");
    screen.keys("  c");
    assert_eq!(
        screen.did(),
        [Action::Compare(vec![
            "output/诊所风格".into(),
            "output/long name of a run that failed early".into()
        ])]
    );
    screen.keys("2↓\n");
    assert!(screen.did().is_empty(), "a broken config is not started");
    screen.keys("2");
    screen.home.selected[1] = 0;
    screen.keys("\ns");
    assert_eq!(
        screen.did(),
        [Action::Act(Deed::Start("configs/clinic.yaml".into()))]
    );
    screen.keys("a");
    assert_eq!(
        screen.did(),
        [Action::Act(Deed::Queue("configs/clinic.yaml".into()))]
    );
    screen.keys("3");
    screen.home.selected[2] = 3;
    screen.keys("JKx");
    let shift = |earlier| Action::Act(Deed::Shift { entry: 4, earlier });
    assert_eq!(
        screen.did(),
        [shift(false), shift(true), Action::Act(Deed::Skip(4))]
    );
    screen.keys("S\n");
    assert_eq!(screen.did(), [Action::Act(Deed::StopQueue { now: true })]);
    screen.keys("q");
    assert_eq!(screen.did(), [Action::Leave(HomeLeave::Quit)]);
}

#[test]
fn the_selected_run_stays_selected_when_another_appears_above_it() {
    let mut screen = Screen::new((120, 40), Lang::English);
    screen.keys("↓");
    let mut more = overview();
    more.runs
        .insert(0, run("newer", PhaseName::Loading, true, 0));
    screen.send(Msg::Looked(Ok(more)));
    assert_eq!(screen.home.run().unwrap().name, "诊所风格");
}
