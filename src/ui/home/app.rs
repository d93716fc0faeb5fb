//! Home's state and its only way to change, as the deck's: `update` takes a message and says what is
//! to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crossterm::event::{Event as Input, KeyEventKind};

use super::desk::{
    Checked, Comparison, ConfigLine, Deed, Outcome, Overview, QueueLine, RunLine, Suggestion,
};
use super::form::{Field, Form};
use crate::ui::chart::Align;
use crate::ui::lang::Lang;
use crate::ui::text;
use crate::ui::theme::{Catalogue, Theme};

/// How long a toast stays, in seconds.
const TOAST: f64 = 6.0;

/// What reaches home.
#[derive(Debug)]
pub enum Msg {
    Input(Input),
    Looked(Result<Overview, String>),
    Checked {
        config: ConfigLine,
        checked: Checked,
    },
    /// The form's text, of a generation.
    TextChecked {
        generation: u64,
        checked: Checked,
    },
    Suggested {
        base: String,
        data: String,
        suggestion: Result<Suggestion, String>,
    },
    Compared(Result<Comparison, String>),
    Did {
        deed: Deed,
        result: Result<Outcome, String>,
    },
    Tick,
    /// Home goes on after it was stopped.
    Continued,
    End,
}

/// What the event loop is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Look,
    Check(ConfigLine),
    CheckText {
        generation: u64,
        text: String,
    },
    Suggest {
        base: String,
        data: String,
    },
    Compare(Vec<PathBuf>),
    Act(Deed),
    /// Open a file in the person's editor.
    Edit(PathBuf),
    Redraw,
    Suspend,
    Retake,
    Leave(HomeLeave),
}

/// Why home was left.
#[derive(Clone, Debug, PartialEq)]
pub enum HomeLeave {
    Quit,
    /// To open the deck on a run.
    Attach(PathBuf),
    /// To open the deck on the data of a config.
    Data(PathBuf),
}

/// The parts of home's first screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Runs,
    Configs,
    Queue,
}

impl Section {
    pub const ALL: [Section; 3] = [Section::Runs, Section::Configs, Section::Queue];

    pub fn title(self, lang: Lang) -> &'static str {
        match self {
            Section::Runs => lang.home_runs(),
            Section::Configs => lang.home_configs(),
            Section::Queue => lang.home_queue(),
        }
    }
}

/// A question over the screen.
#[derive(Clone, Debug, PartialEq)]
pub enum Dialog {
    Help,
    Delete(Box<RunLine>),
    /// What to do with a config that passes its checks, with a choice selected.
    Start {
        config: PathBuf,
        selected: usize,
    },
    StopQueue {
        selected: usize,
    },
    /// A filter being typed; `before` comes back on Esc.
    Filter {
        before: String,
    },
}

/// Runs side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareView {
    pub comparison: Comparison,
    pub align: Align,
    pub log: bool,
    pub scroll: usize,
}

/// What fills the screen.
#[derive(Clone, Debug)]
pub enum Page {
    List,
    Compare(Box<CompareView>),
    Form(Box<Form>),
}

/// A line that shows for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Toast {
    pub text: String,
    pub good: bool,
    until: f64,
}

/// Everything home knows.
#[derive(Debug)]
pub struct Home {
    pub size: (u16, u16),
    /// Seconds since the Unix epoch.
    pub now: f64,
    pub lang: Lang,
    pub theme: Theme,
    pub(super) themes: Catalogue,
    /// `None` until the first look.
    pub overview: Option<Overview>,
    /// Why the last look failed.
    pub trouble: Option<String>,
    pub checks: BTreeMap<PathBuf, (u64, Checked)>,
    pub page: Page,
    pub section: Section,
    pub selected: [usize; 3],
    pub filter: String,
    pub marked: BTreeSet<PathBuf>,
    pub dialog: Option<Dialog>,
    pub toasts: Vec<Toast>,
    /// What a new form is filled with: bases and data that were found.
    pub bases: Vec<String>,
    pub data: Vec<String>,
    looking: bool,
    checking: bool,
    /// When the form's text is to be checked, and whether its sources have changed.
    pub(super) settle: Option<(f64, bool)>,
    /// Only the form was asked for: to close it is to leave.
    pub(super) form_only: bool,
}

impl Home {
    pub fn new(size: (u16, u16), now: f64, themes: Catalogue, lang: Lang) -> Home {
        let mut home = Home {
            size,
            now,
            lang,
            theme: themes.theme(),
            themes,
            overview: None,
            trouble: None,
            checks: BTreeMap::new(),
            page: Page::List,
            section: Section::Runs,
            selected: [0; 3],
            filter: String::new(),
            marked: BTreeSet::new(),
            dialog: None,
            toasts: Vec::new(),
            bases: Vec::new(),
            data: Vec::new(),
            looking: false,
            checking: false,
            settle: None,
            form_only: false,
        };
        for problem in home.themes.problems.clone() {
            home.toast(false, problem);
        }
        home
    }

    /// Opens the form alone, as `loradeck new` does.
    pub fn open_form(&mut self, base: Option<String>, data: Option<String>) {
        self.form_only = true;
        self.new_form(base, data);
    }

    pub(super) fn new_form(&mut self, base: Option<String>, data: Option<String>) {
        let form = Form::new(self.lang, base, data, self.bases.clone(), self.data.clone());
        self.page = Page::Form(Box::new(form));
        self.settle = Some((self.now, true));
    }

    /// Takes one message in at the time `now`.
    pub fn update(&mut self, now: f64, msg: Msg) -> Vec<Action> {
        self.now = now;
        self.toasts.retain(|t| t.until > now);
        let mut actions = match msg {
            Msg::Input(input) => self.input(input),
            Msg::Looked(result) => {
                self.looking = false;
                match result {
                    Ok(overview) => {
                        self.trouble = None;
                        self.take_overview(overview);
                    }
                    Err(why) => self.trouble = Some(why),
                }
                Vec::new()
            }
            Msg::Checked { config, checked } => {
                self.checking = false;
                self.checks.insert(config.path, (config.stamp, checked));
                Vec::new()
            }
            Msg::TextChecked {
                generation,
                checked,
            } => {
                if let Page::Form(form) = &mut self.page
                    && form.generation == generation
                {
                    form.checked = Some(checked);
                    form.checking = false;
                }
                Vec::new()
            }
            Msg::Suggested {
                base,
                data,
                suggestion,
            } => {
                if let Page::Form(form) = &mut self.page
                    && form.value(Field::Base) == base
                    && form.value(Field::Data) == data
                {
                    form.advise(suggestion);
                    self.settle = Some((now, false));
                }
                Vec::new()
            }
            Msg::Compared(Ok(comparison)) => {
                self.page = Page::Compare(Box::new(CompareView {
                    comparison,
                    align: Align::Step,
                    log: false,
                    scroll: 0,
                }));
                Vec::new()
            }
            Msg::Compared(Err(why)) => {
                self.toast(false, why);
                Vec::new()
            }
            Msg::Did { deed, result } => self.did(deed, result),
            Msg::Tick => self.look(),
            Msg::Continued => vec![Action::Retake],
            Msg::End => vec![Action::Leave(HomeLeave::Quit)],
        };
        self.clamp();
        actions.extend(self.wanted_check());
        actions.extend(self.settled());
        actions
    }

    /// When the next message must come at the latest.
    pub fn due(&self) -> Option<f64> {
        self.settle.map(|(at, _)| at)
    }

    pub(super) fn look(&mut self) -> Vec<Action> {
        if self.looking || self.form_only {
            return Vec::new();
        }
        self.looking = true;
        vec![Action::Look]
    }

    fn take_overview(&mut self, overview: Overview) {
        let first = self.overview.is_none();
        // The line that is selected stays so, wherever it has moved.
        let chosen = (
            self.run().map(|r| r.folder.clone()),
            self.config().map(|c| c.path.clone()),
            self.entry().map(|e| e.id),
        );
        self.overview = Some(overview);
        if first && self.runs().is_empty() {
            self.section = Section::Configs;
        }
        let places = [
            self.runs()
                .iter()
                .position(|r| Some(&r.folder) == chosen.0.as_ref()),
            self.configs()
                .iter()
                .position(|c| Some(&c.path) == chosen.1.as_ref()),
            self.queue().iter().position(|e| Some(e.id) == chosen.2),
        ];
        for (selected, place) in self.selected.iter_mut().zip(places) {
            *selected = place.unwrap_or(*selected);
        }
        let there: BTreeSet<PathBuf> = self.all_runs().map(|r| r.folder.clone()).collect();
        self.marked.retain(|m| there.contains(m));
    }

    pub(super) fn all_runs(&self) -> impl Iterator<Item = &RunLine> {
        self.overview.iter().flat_map(|o| &o.runs)
    }

    fn shows(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.filter.to_lowercase())
    }

    /// The runs that show.
    pub fn runs(&self) -> Vec<&RunLine> {
        self.all_runs()
            .filter(|r| self.shows(&format!("{} {} {}", r.name, r.base, r.data)))
            .collect()
    }

    /// The configs that show.
    pub fn configs(&self) -> Vec<&ConfigLine> {
        let all = self.overview.iter().flat_map(|o| &o.configs);
        all.filter(|c| self.shows(&c.path.to_string_lossy()))
            .collect()
    }

    /// The queued runs that show.
    pub fn queue(&self) -> Vec<&QueueLine> {
        let all = self.overview.iter().flat_map(|o| &o.queue);
        all.filter(|e| self.shows(&e.config.to_string_lossy()))
            .collect()
    }

    pub(super) fn chosen(&self, section: Section) -> usize {
        self.selected[section as usize]
    }

    /// The selected run, config, entry.
    pub fn run(&self) -> Option<&RunLine> {
        self.runs().get(self.chosen(Section::Runs)).copied()
    }

    pub fn config(&self) -> Option<&ConfigLine> {
        self.configs().get(self.chosen(Section::Configs)).copied()
    }

    pub fn entry(&self) -> Option<&QueueLine> {
        self.queue().get(self.chosen(Section::Queue)).copied()
    }

    /// What a config's check has found, if it is of the file as it is.
    pub fn check_of(&self, config: &ConfigLine) -> Option<&Checked> {
        self.checks
            .get(&config.path)
            .filter(|(stamp, _)| *stamp == config.stamp)
            .map(|(_, checked)| checked)
    }

    /// Lines of a section.
    pub fn count(&self, section: Section) -> usize {
        match section {
            Section::Runs => self.runs().len(),
            Section::Configs => self.configs().len(),
            Section::Queue => self.queue().len(),
        }
    }

    fn clamp(&mut self) {
        for section in Section::ALL {
            let last = self.count(section).saturating_sub(1);
            let selected = &mut self.selected[section as usize];
            *selected = (*selected).min(last);
        }
    }

    /// The next config that has not been checked as it is: one at a time.
    fn wanted_check(&mut self) -> Option<Action> {
        if self.checking || !matches!(self.page, Page::List) {
            return None;
        }
        let all = self.overview.iter().flat_map(|o| &o.configs);
        let next = all.clone().find(|c| self.check_of(c).is_none()).cloned()?;
        self.checking = true;
        Some(Action::Check(next))
    }

    /// What a form that has settled asks for.
    fn settled(&mut self) -> Vec<Action> {
        let (Some((at, sources)), Page::Form(form)) = (self.settle, &self.page) else {
            return Vec::new();
        };
        if at > self.now {
            return Vec::new();
        }
        self.settle = None;
        let mut actions = vec![Action::CheckText {
            generation: form.generation,
            text: form.yaml(),
        }];
        if sources {
            actions.push(Action::Suggest {
                base: form.value(Field::Base).to_owned(),
                data: form.value(Field::Data).to_owned(),
            });
        }
        actions
    }

    pub(super) fn toast(&mut self, good: bool, text: impl Into<String>) {
        let text = text.into();
        self.toasts.retain(|t| t.text != text);
        self.toasts.push(Toast {
            text,
            good,
            until: self.now + TOAST,
        });
        if self.toasts.len() > 3 {
            self.toasts.remove(0);
        }
    }

    fn did(&mut self, deed: Deed, result: Result<Outcome, String>) -> Vec<Action> {
        let name = |path: &Path| text::file_name(&path.to_string_lossy()).to_owned();
        match (result, &deed) {
            (Err(why), _) => self.toast(false, why),
            (Ok(Outcome::Started(run)), _) => {
                return vec![Action::Leave(HomeLeave::Attach(run))];
            }
            (Ok(Outcome::Done), Deed::Delete(run)) => {
                let text = self.lang.run_deleted(name(run));
                self.toast(true, text);
            }
            (Ok(Outcome::Done), Deed::Queue(config)) => {
                let text = self.lang.config_queued(name(config));
                self.toast(true, text);
            }
            (Ok(Outcome::Done), Deed::Write { path, .. }) => {
                let text = self.lang.config_written(path.display());
                self.toast(true, text);
                if self.form_only {
                    return vec![Action::Leave(HomeLeave::Quit)];
                }
                self.page = Page::List;
                self.section = Section::Configs;
            }
            (Ok(Outcome::Done), _) => {}
        }
        self.look()
    }

    fn input(&mut self, input: Input) -> Vec<Action> {
        match input {
            Input::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
            Input::Paste(pasted) => {
                if let Some(Dialog::Filter { .. }) = self.dialog {
                    self.filter.push_str(&text::one_line(&pasted));
                } else if let Page::Form(form) = &mut self.page {
                    let step = form.paste(&pasted);
                    return self.form_step(step);
                }
                Vec::new()
            }
            Input::Resize(columns, rows) => {
                self.size = (columns, rows);
                vec![Action::Redraw]
            }
            _ => Vec::new(),
        }
    }
}
