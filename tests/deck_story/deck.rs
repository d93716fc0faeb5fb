//! A deck without a terminal.

use crossterm::event::{Event as Input, KeyCode, KeyEvent, KeyModifiers};
use loradeck::protocol::*;
use loradeck::run::link::Update;
use loradeck::ui::app::{Action, App, Msg, Setup};
use loradeck::ui::keymap::Keymap;
use loradeck::ui::lang::Lang;
use loradeck::ui::theme::{Capabilities, Catalogue, ColorDepth};
use loradeck::ui::view;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{START, Story, no_gpu, records};

pub const UNICODE: Capabilities = Capabilities {
    depth: ColorDepth::True,
    unicode: true,
};

pub const ASCII: Capabilities = Capabilities {
    depth: ColorDepth::Indexed,
    unicode: false,
};

/// A deck in a test: messages go in, actions are kept.
pub struct Deck {
    pub app: App,
    pub story: Story,
    pub actions: Vec<Action>,
}

impl Deck {
    pub fn new(size: (u16, u16), capabilities: Capabilities) -> Deck {
        Deck {
            app: App::new(
                size,
                START,
                Setup {
                    themes: Catalogue::built_in(capabilities),
                    keymap: Keymap::default(),
                    problems: Vec::new(),
                    sender: "ada".into(),
                    readonly: false,
                    lang: Lang::English,
                    bell: false,
                },
            ),
            story: Story::new(1000),
            actions: Vec::new(),
        }
    }

    /// A live run that has done 312 of 1,000 steps.
    pub fn training(size: (u16, u16)) -> Deck {
        Deck::running(size, UNICODE, &no_gpu())
    }

    pub fn running(size: (u16, u16), capabilities: Capabilities, gpu: &GpuStatus) -> Deck {
        let mut deck = Deck::new(size, capabilities);
        deck.connect();
        for event in deck.story.up_to(312, gpu) {
            deck.event(event);
        }
        deck
    }

    pub fn send(&mut self, msg: Msg) {
        let now = self.story.time;
        let actions = self.app.update(now, msg);
        for action in actions {
            // The runner answers for the data at once.
            if let Action::Query(Query::Records { from, count }) = &action {
                let (from, count) = (*from, *count);
                let id = 1000 + from as u64;
                self.app.update(
                    now,
                    Msg::Asked {
                        id,
                        query: Query::Records { from, count },
                    },
                );
                self.app.update(
                    now,
                    Msg::Update(Update::Reply {
                        id,
                        reply: Reply::Records {
                            from,
                            total: 240,
                            records: records(from, count, 240),
                        },
                    }),
                );
            } else if action != Action::Query(Query::QueuePlace) {
                self.actions.push(action);
            }
        }
    }

    pub fn connect(&mut self) {
        self.send(Msg::Update(Update::Connected {
            program: "0.1.0".into(),
            readonly: None,
        }));
    }

    pub fn disconnect(&mut self) {
        self.send(Msg::Update(Update::Disconnected {
            reason: "the runner has ended".into(),
        }));
    }

    pub fn event(&mut self, event: Event) {
        self.send(Msg::Update(Update::Event(Box::new(event))));
    }

    pub fn wait(&mut self, seconds: f64) {
        self.story.time += seconds;
        self.send(Msg::Tick);
    }

    /// Keys as they are typed: a character each, or a name in angle brackets.
    pub fn keys(&mut self, keys: &str) {
        let mut rest = keys;
        while let Some(c) = rest.chars().next() {
            let named = rest
                .strip_prefix('<')
                .and_then(|r| r.split_once('>'))
                .filter(|(name, _)| !name.is_empty());
            let key = if let Some((name, after)) = named {
                rest = after;
                match name {
                    "enter" => KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE),
                    "esc" => KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE),
                    "tab" => KeyEvent::new(KeyCode::Tab, KeyModifiers::NONE),
                    "s-tab" => KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT),
                    "lt" => KeyEvent::new(KeyCode::Char('<'), KeyModifiers::NONE),
                    "up" => KeyEvent::new(KeyCode::Up, KeyModifiers::NONE),
                    "down" => KeyEvent::new(KeyCode::Down, KeyModifiers::NONE),
                    "left" => KeyEvent::new(KeyCode::Left, KeyModifiers::NONE),
                    "right" => KeyEvent::new(KeyCode::Right, KeyModifiers::NONE),
                    "c-c" => KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL),
                    "c-l" => KeyEvent::new(KeyCode::Char('l'), KeyModifiers::CONTROL),
                    "c-z" => KeyEvent::new(KeyCode::Char('z'), KeyModifiers::CONTROL),
                    "backspace" => KeyEvent::new(KeyCode::Backspace, KeyModifiers::NONE),
                    other => panic!("no key is called {other}"),
                }
            } else {
                rest = &rest[c.len_utf8()..];
                KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE)
            };
            self.send(Msg::Input(Input::Key(key)));
        }
    }

    pub fn buffer(&self) -> Buffer {
        let area = Rect::new(0, 0, self.app.size.0, self.app.size.1);
        let mut buf = Buffer::empty(area);
        view::draw(&self.app, &self.app.theme, area, &mut buf);
        buf
    }

    pub fn screen(&self) -> String {
        let buf = self.buffer();
        let mut out = String::new();
        for y in 0..buf.area.height {
            let mut line = String::new();
            let mut skip = 0;
            for x in 0..buf.area.width {
                let symbol = buf[(x, y)].symbol();
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                skip = unicode_width::UnicodeWidthStr::width(symbol).saturating_sub(1);
                line.push_str(symbol);
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    pub fn sent(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The runner answers the query that was asked last.
    pub fn answer(&mut self, reply: Reply) {
        let mut queries = self.sent().into_iter().filter_map(|a| match a {
            Action::Query(query) => Some(query),
            _ => None,
        });
        let query = queries.next_back().expect("nothing was asked");
        self.send(Msg::Asked { id: 77, query });
        self.send(Msg::Update(Update::Reply { id: 77, reply }));
    }
}
