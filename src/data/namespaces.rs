//! Keeps the namespaces of chat templates from holding themselves, and from nesting without end.
//!
//! They are all that a template can change, so only they can make a value that contains itself or
//! that grows deeper with every turn of a loop. Printing one would use up the stack, which ends the
//! process. What is assigned to a namespace's attribute therefore goes through a filter that refuses
//! such values: `{% set ns.last = message %}` is compiled as `{% set ns.last = (message) | within %}`.

use std::cell::Cell;

use minijinja::value::{ObjectRepr, Value};
use minijinja::{Environment, Error, ErrorKind};

/// The filter's name: none that a template can know.
const FILTER: &str = "loradeck_within";
/// Lists in lists and maps that a namespace may hold.
const DEPTH: usize = 64;
/// Lists and maps that are looked at for one rendering.
const LOOKS: usize = 1_000_000;

thread_local! {
    /// Lists and maps that may still be looked at; a rendering stays on its thread.
    static LEFT: Cell<usize> = const { Cell::new(LOOKS) };
}

/// Makes the filter known.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter(FILTER, within);
}

/// To be called before each rendering.
pub(super) fn begin() {
    LEFT.set(LOOKS);
}

fn within(value: Value) -> Result<Value, Error> {
    match refused(&value, DEPTH) {
        Some(why) => Err(Error::new(ErrorKind::InvalidOperation, why)),
        None => Ok(value),
    }
}

fn refused(value: &Value, depth: usize) -> Option<&'static str> {
    let object = value.as_object()?;
    if object.type_name().ends_with("::Namespace") {
        return Some("a namespace cannot hold a namespace");
    }
    let left = LEFT.get();
    if depth == 0 || left == 0 {
        return Some("what a namespace is to hold is too large");
    }
    LEFT.set(left - 1);
    match object.repr() {
        ObjectRepr::Map => object
            .try_iter_pairs()?
            .find_map(|(key, value)| refused(&key, depth - 1).or(refused(&value, depth - 1))),
        ObjectRepr::Seq | ObjectRepr::Iterable => {
            let mut items = object.try_iter()?;
            items.find_map(|item| refused(&item, depth - 1))
        }
        _ => None,
    }
}

/// The inside of a block's tag that assigns to an attribute, with the filter; none for other tags.
pub(super) fn guarded(tag: &str) -> Option<String> {
    // What asks for the removal of white space comes last.
    let inside = tag.strip_suffix(['-', '+']).unwrap_or(tag);
    let trim = &tag[inside.len()..];
    let words = inside.trim_start_matches(['-', '+']).trim_start();
    let assignment = words.strip_prefix("set")?;
    if !assignment.starts_with(char::is_whitespace) {
        return None;
    }
    let end = inside.len() - assignment.len() + assignment.find(['=', '|'])?;
    let (target, rest) = inside.split_at(end);
    if !target.contains('.') {
        return None;
    }
    Some(match rest.strip_prefix('=') {
        Some(value) => format!("{target}=({value}) | {FILTER} {trim}"),
        // A block whose text goes through filters of its own.
        None => format!("{target}{rest} | {FILTER} {trim}"),
    })
}
