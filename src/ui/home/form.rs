//! The form for a new run: its fields, what they may be, and the YAML they make.

use std::path::PathBuf;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::desk::{Advice, Checked, Row, Suggestion, Why};
use crate::ui::lang::Lang;
use crate::ui::text;

/// A line of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    File,
    Base,
    Data,
    Method,
    Rank,
    Epochs,
    Batch,
    Accumulation,
    Length,
    Resolution,
    Trigger,
    Rate,
    Eval,
    Save,
    Prompt,
    Output,
}

impl Field {
    pub const ALL: [Field; 16] = [
        Field::File,
        Field::Base,
        Field::Data,
        Field::Method,
        Field::Rank,
        Field::Epochs,
        Field::Batch,
        Field::Accumulation,
        Field::Length,
        Field::Resolution,
        Field::Trigger,
        Field::Rate,
        Field::Eval,
        Field::Save,
        Field::Prompt,
        Field::Output,
    ];

    /// The key it writes; two have words of their own.
    pub fn label(self, lang: Lang) -> &'static str {
        match self {
            Field::File => lang.form_file(),
            Field::Method => lang.form_method(),
            field => field.key(),
        }
    }

    pub(super) fn key(self) -> &'static str {
        match self {
            Field::File | Field::Method => "",
            Field::Base => "base_model",
            Field::Data => "train_data_dir",
            Field::Rank => "lora_rank",
            Field::Epochs => "epochs",
            Field::Batch => "batch_size",
            Field::Accumulation => "gradient_accumulation_steps",
            Field::Length => "sequence_len",
            Field::Resolution => "resolution",
            Field::Trigger => "trigger_word",
            Field::Rate => "learning_rate",
            Field::Eval => "eval_steps",
            Field::Save => "save_steps",
            Field::Prompt => "sample_prompts",
            Field::Output => "output_dir",
        }
    }
}

/// The field's usual rate for image models.
const IMAGE_RATE: &str = "1e-4";

/// What one of [`METHODS`] writes, line by line.
type MethodLines = &'static [&'static str];

/// Names of the methods and what they write.
pub(super) const METHODS: [(&str, MethodLines); 5] = [
    ("LoRA", &[]),
    ("LoRA, all-linear", &["target_modules: all-linear"]),
    ("DoRA", &["use_dora: true"]),
    ("rsLoRA", &["use_rslora: true"]),
    ("LoRA+", &["loraplus_ratio: 16"]),
];

/// The buttons below the fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    Write,
    WriteStart,
    WriteQueue,
}

impl Button {
    pub const ALL: [Button; 3] = [Button::Write, Button::WriteStart, Button::WriteQueue];

    pub fn label(self, lang: Lang) -> &'static str {
        match self {
            Button::Write => lang.form_write(),
            Button::WriteStart => lang.form_write_start(),
            Button::WriteQueue => lang.form_write_queue(),
        }
    }
}

/// Where the form's cursor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Field(usize),
    Button(usize),
}

/// What a key in the form leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Stay,
    /// Something was changed: the text is to be checked again.
    Changed,
    /// Base or data was changed: the advice is too.
    Sources,
    Press(Button),
    Close,
}

/// The form.
#[derive(Clone, Debug)]
pub struct Form {
    pub lang: Lang,
    values: [String; Field::ALL.len()],
    /// Set by the person: advice leaves it alone.
    own: [bool; Field::ALL.len()],
    pub place: Place,
    pub suggestion: Option<Result<Suggestion, String>>,
    pub bases: Vec<String>,
    pub data: Vec<String>,
    pub checked: Option<Checked>,
    /// Counts the changes: answers to earlier texts are old.
    pub generation: u64,
    pub checking: bool,
}

impl Form {
    /// An empty form, or one with base and data filled in; the first that were found otherwise.
    pub fn new(
        lang: Lang,
        base: Option<String>,
        data: Option<String>,
        bases: Vec<String>,
        datas: Vec<String>,
    ) -> Form {
        let mut form = Form {
            lang,
            values: Default::default(),
            own: [false; Field::ALL.len()],
            place: Place::Field(1),
            suggestion: None,
            bases,
            data: datas,
            checked: None,
            generation: 1,
            checking: true,
        };
        let first = |list: &[String]| list.first().cloned().unwrap_or_default();
        form.values[Field::Base as usize] = base.unwrap_or_else(|| first(&form.bases));
        form.values[Field::Data as usize] = data.unwrap_or_else(|| first(&form.data));
        form.set(Field::Method, METHODS[0].0);
        form.set(Field::Rank, "8");
        form.set(Field::Rate, "2e-4");
        form.name_after_data();
        form
    }

    pub fn value(&self, field: Field) -> &str {
        &self.values[field as usize]
    }

    fn set(&mut self, field: Field, value: impl Into<String>) {
        if !self.own[field as usize] {
            self.values[field as usize] = value.into();
        }
    }

    /// Where the config is written.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(self.value(Field::File))
    }

    /// Takes the advice for base and data.
    pub fn advise(&mut self, suggestion: Result<Suggestion, String>) {
        if let Ok(s) = &suggestion {
            let (row, trigger) = match &s.row {
                Row::Tokens(length) => ((Field::Length, length.value), None),
                Row::Pixels {
                    resolution,
                    trigger_word,
                    ..
                } => {
                    self.set(Field::Rate, IMAGE_RATE);
                    ((Field::Resolution, resolution.value), trigger_word.clone())
                }
            };
            self.set(Field::Trigger, trigger.unwrap_or_default());
            let numbers = [
                row,
                (Field::Batch, s.batch_size.value),
                (Field::Accumulation, s.gradient_accumulation_steps.value),
                (Field::Epochs, s.epochs.value),
                (Field::Eval, s.eval_steps.value),
                (Field::Save, s.save_steps.value),
            ];
            let prompt = s.prompt.clone().unwrap_or_default();
            for (field, value) in numbers {
                self.set(field, value.to_string());
            }
            self.set(Field::Prompt, prompt);
        }
        self.suggestion = Some(suggestion);
        if !self.methods().any(|name| name == self.value(Field::Method)) {
            self.values[Field::Method as usize] = METHODS[0].0.to_owned();
        }
        self.generation += 1;
    }

    /// Whether base and data are those of an image run.
    pub fn has_images(&self) -> bool {
        self.good()
            .is_some_and(|s| matches!(s.row, Row::Pixels { .. }))
    }

    /// The fields that such a run has.
    pub fn fields(&self) -> Vec<Field> {
        let hidden: &[Field] = match self.has_images() {
            true => &[Field::Length],
            false => &[Field::Resolution, Field::Trigger],
        };
        let mut fields = Field::ALL.to_vec();
        fields.retain(|field| !hidden.contains(field));
        fields
    }

    /// The names of the methods that the base can be trained with.
    fn methods(&self) -> impl Iterator<Item = &'static str> + use<> {
        let images = self.has_images();
        let names = METHODS.iter().map(|(name, _)| *name);
        names.filter(move |name| !images || *name != "DoRA")
    }

    /// File and run folder are named after the data.
    fn name_after_data(&mut self) {
        let data = self.value(Field::Data).trim_end_matches('/').to_owned();
        let name = text::file_name(&data);
        let stem = name.split('.').next().filter(|s| !s.is_empty());
        let stem = stem.unwrap_or("run").replace(char::is_whitespace, "_");
        self.set(Field::File, format!("configs/{stem}.yaml"));
        self.set(Field::Output, format!("./output/{stem}"));
    }

    fn good(&self) -> Option<&Suggestion> {
        self.suggestion.as_ref().and_then(|s| s.as_ref().ok())
    }

    /// Why a field has its value, or what it is.
    pub fn why(&self, field: Field) -> String {
        let lang = self.lang;
        let advice = |pick: fn(&Suggestion) -> &Advice<u64>| {
            let found = self.good().map(pick);
            found.map_or_else(String::new, |a| why(lang, &a.why))
        };
        let images = self.has_images();
        match field {
            Field::File => lang.why_file().into(),
            Field::Base => self
                .good()
                .map_or_else(|| lang.why_base().into(), |s| s.base.clone()),
            Field::Data => self
                .good()
                .map_or_else(|| lang.why_data().into(), |s| s.data.clone()),
            Field::Method => match self.method() {
                0 => lang.method_lora(),
                1 if images => lang.method_all_image(),
                1 => lang.method_all(),
                2 => lang.method_dora(),
                3 => lang.method_rs(),
                _ => lang.method_plus(),
            }
            .into(),
            Field::Rank => lang.why_rank().into(),
            Field::Rate if images => lang.why_rate_image().into(),
            Field::Rate => lang.why_rate().into(),
            Field::Trigger => lang.why_trigger().into(),
            Field::Output => lang.why_output().into(),
            Field::Prompt if images => lang.why_prompt_image().into(),
            Field::Prompt => lang.why_prompt().into(),
            Field::Epochs => advice(|s| &s.epochs),
            Field::Batch => advice(|s| &s.batch_size),
            Field::Accumulation => advice(|s| &s.gradient_accumulation_steps),
            Field::Length | Field::Resolution => advice(|s| match &s.row {
                Row::Tokens(advice) => advice,
                Row::Pixels { resolution, .. } => resolution,
            }),
            Field::Eval => advice(|s| &s.eval_steps),
            Field::Save => advice(|s| &s.save_steps),
        }
    }

    pub(super) fn method(&self) -> usize {
        let name = self.value(Field::Method);
        METHODS.iter().position(|(n, _)| *n == name).unwrap_or(0)
    }

    /// What a field may be chosen from; empty where it is typed only.
    pub fn choices(&self, field: Field) -> Vec<String> {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        match field {
            Field::Base => self.bases.clone(),
            Field::Data => self.data.clone(),
            Field::Method => self.methods().map(str::to_owned).collect(),
            Field::Rank => words(&["4", "8", "16", "32", "64", "128"]),
            Field::Epochs => words(&["1", "2", "3", "5", "10", "20"]),
            Field::Batch => words(&["1", "2", "4", "8", "16", "32"]),
            Field::Accumulation => words(&["1", "2", "4", "8", "16", "32"]),
            Field::Resolution => words(&["256", "384", "512", "640", "768", "1024"]),
            Field::Length => words(&["128", "256", "512", "1024", "2048", "4096", "8192"]),
            Field::Rate => words(&["5e-5", "1e-4", "2e-4", "5e-4", "1e-3"]),
            _ => Vec::new(),
        }
    }

    /// Takes a key.
    pub fn key(&mut self, key: KeyEvent) -> Step {
        let fields = self.fields();
        let last = fields.len() - 1;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match (key.code, self.place) {
            (KeyCode::Esc, _) => Step::Close,
            (KeyCode::Char('s'), _) if control => Step::Press(Button::Write),
            (KeyCode::Up | KeyCode::BackTab, Place::Field(i)) => {
                self.go(Place::Field(i.saturating_sub(1)))
            }
            (KeyCode::Down | KeyCode::Tab | KeyCode::Enter, Place::Field(i)) => {
                self.go(if i == last {
                    Place::Button(0)
                } else {
                    Place::Field(i + 1)
                })
            }
            (KeyCode::Up | KeyCode::BackTab, Place::Button(_)) => self.go(Place::Field(last)),
            (KeyCode::Left, Place::Button(b)) => self.go(Place::Button(b.saturating_sub(1))),
            (KeyCode::Right | KeyCode::Tab, Place::Button(b)) => {
                self.go(Place::Button((b + 1).min(Button::ALL.len() - 1)))
            }
            (KeyCode::Enter, Place::Button(b)) => Step::Press(Button::ALL[b]),
            (_, Place::Button(_)) => Step::Stay,
            (code, Place::Field(i)) => {
                let Some(&field) = fields.get(i) else {
                    return self.go(Place::Field(last));
                };
                let before = self.value(field).to_owned();
                match code {
                    KeyCode::Left => self.choose(field, -1),
                    KeyCode::Right => self.choose(field, 1),
                    _ if field == Field::Method => {}
                    _ => super::keys::edit(&mut self.values[field as usize], key),
                }
                self.changed(field, &before)
            }
        }
    }

    /// Pasted text goes where the cursor is.
    pub fn paste(&mut self, pasted: &str) -> Step {
        let Place::Field(i) = self.place else {
            return Step::Stay;
        };
        let field = self.fields().get(i).copied();
        let Some(field) = field.filter(|field| *field != Field::Method) else {
            return Step::Stay;
        };
        let before = self.value(field).to_owned();
        self.values[field as usize].push_str(text::one_line(pasted).trim());
        self.changed(field, &before)
    }

    fn go(&mut self, place: Place) -> Step {
        self.place = place;
        Step::Stay
    }

    fn changed(&mut self, field: Field, before: &str) -> Step {
        if self.value(field) == before {
            return Step::Stay;
        }
        self.own[field as usize] = true;
        self.generation += 1;
        self.checking = true;
        match field {
            Field::Base | Field::Data => {
                self.name_after_data();
                self.suggestion = None;
                Step::Sources
            }
            _ => Step::Changed,
        }
    }

    fn choose(&mut self, field: Field, by: isize) {
        let choices = self.choices(field);
        if choices.is_empty() {
            return;
        }
        let value = self.value(field);
        let at = choices.iter().position(|c| c == value);
        let next = match at {
            Some(at) => at
                .saturating_add_signed(by)
                .min(choices.len().saturating_sub(1)),
            // A number of one's own moves to the nearest choice on that side.
            None => nearest(&choices, value, by),
        };
        self.values[field as usize] = choices[next].clone();
    }
}

fn nearest(choices: &[String], value: &str, by: isize) -> usize {
    let number = |s: &str| s.trim().parse::<f64>().ok();
    let Some(value) = number(value) else { return 0 };
    let larger = choices
        .iter()
        .position(|c| number(c).is_some_and(|c| c > value));
    match (larger, by > 0) {
        (Some(at), true) => at,
        (Some(at), false) => at.saturating_sub(1),
        (None, _) => choices.len() - 1,
    }
}

/// A reason as a sentence.
fn why(lang: Lang, why: &Why) -> String {
    match why {
        Why::Longest { tokens } => lang.why_longest(text::count(*tokens)),
        Why::Most { tokens, longest } => lang.why_most(text::count(*tokens), text::count(*longest)),
        Why::Fits {
            bytes,
            available,
            more: Some(more),
        } => lang.why_fits_more(
            text::bytes(*bytes),
            text::bytes(*available),
            text::bytes(*more),
        ),
        Why::Fits {
            bytes, available, ..
        } => lang.why_fits(text::bytes(*bytes), text::bytes(*available)),
        Why::Unknown => lang.why_unknown().into(),
        Why::StepOf { records } => lang.why_step_of(text::count(*records)),
        Why::Records { records } => lang.why_records(text::count(*records)),
        Why::Times { times } => lang.why_times(times),
        Why::Side { side } => lang.why_side(side),
        Why::Pictures { pictures, seen } => {
            lang.why_pictures(text::count(*pictures), text::count(*seen))
        }
    }
}

#[cfg(test)]
mod tests;
