//! What a change does to a run: now, from the next checkpoint, or not before a new run.

use super::RunConfig;
use super::keys::{self, Applies, KEYS, Key};
use super::load::{from_text, read, sentence, used_keys};
use super::names::{Advice, advise};
use super::rules::{impossible, text_defaults};
use super::values::shown;
use crate::protocol::{ConfigChange, ConfigEntry};

/// Restart keys that may change between a run and its resume: where the run lies, what computes it
/// and what looks its data over, not what is computed. (Recomputing activations gives the same numbers.)
const FREE_ON_RESUME: &[&str] = &[
    "output_dir",
    "device",
    "gradient_checkpointing",
    "cache_latents",
    "clip_model",
];

pub(super) fn diff(running: &RunConfig, edited: &RunConfig) -> Vec<ConfigChange> {
    used_keys(edited)
        .filter_map(|key| {
            let (old, new) = ((key.show)(running), (key.show)(edited));
            (old != new).then(|| ConfigChange {
                key: key.name.into(),
                old,
                new,
                applies: key.applies.as_str().into(),
            })
        })
        .collect()
}

pub(super) fn restart_keys_differ(stored: &RunConfig, wanted: &RunConfig) -> Vec<ConfigChange> {
    diff(stored, wanted)
        .into_iter()
        .filter(|c| c.applies == Applies::Restart.as_str())
        .filter(|c| !FREE_ON_RESUME.contains(&c.key.as_str()))
        .collect()
}

pub(super) fn apply_live(running: &mut RunConfig, edited: &RunConfig) {
    for key in used_keys(edited).filter(|k| k.applies != Applies::Restart) {
        (key.take)(running, edited);
    }
}

pub(super) fn set_live(running: &RunConfig, key: &str, value: &str) -> Result<RunConfig, String> {
    let (found, changed) = with_value(running, key, value)?;
    match impossible(&changed).into_iter().next() {
        Some((name, fault)) => {
            let blamed = keys::find(name).unwrap_or(found);
            Err(told(sentence(blamed, &(blamed.show)(&changed), fault)))
        }
        None => Ok(changed),
    }
}

/// A live key with a value of its own, whatever the others are.
fn with_value(
    running: &RunConfig,
    key: &str,
    value: &str,
) -> Result<(&'static Key, RunConfig), String> {
    let Some(found) = used_keys(running).find(|k| k.name == key.trim()) else {
        return Err(match advise(key, KEYS.iter().map(|k| k.name)) {
            Advice::Renamed(ours) | Advice::Misspelt(ours) => {
                format!("`{key}` is not a key; did you mean `{ours}`?")
            }
            _ => format!(
                "`{key}` is not a key; these may change during a run: {}",
                live_keys()
            ),
        });
    };
    if found.applies == Applies::Restart {
        return Err(format!(
            "`{key}` needs a new run; these may change during one: {}",
            live_keys()
        ));
    }
    let value = from_text(value);
    let mut changed = running.clone();
    read(found, &mut changed, &value).map_err(|f| told(sentence(found, &shown(&value), f)))?;
    Ok((found, changed))
}

fn told((message, fix): (String, String)) -> String {
    format!("{message}; {fix}")
}

pub(super) fn check_value(
    entries: &[ConfigEntry],
    key: &str,
    value: &str,
) -> Result<String, String> {
    let mut running = text_defaults();
    for entry in entries {
        if let Some(found) = keys::find(&entry.key) {
            // A path or a device of another machine is no fault here.
            let _ = read(found, &mut running, &from_text(&entry.value));
        }
    }
    let (found, changed) = with_value(&running, key, value)?;
    let mut faults = impossible(&changed).into_iter();
    match faults.find(|(name, _)| *name == found.name) {
        Some((_, fault)) => Err(told(sentence(found, &(found.show)(&changed), fault))),
        None => Ok((found.show)(&changed)),
    }
}

fn live_keys() -> String {
    let names: Vec<&str> = KEYS
        .iter()
        .filter(|k| k.applies != Applies::Restart)
        .map(|k| k.name)
        .collect();
    names.join(", ")
}
