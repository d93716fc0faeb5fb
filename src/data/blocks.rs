//! The tags of a template's source, found as the template engine finds them.

/// The source with the insides of block tags (`{% ... %}`) replaced where `replace` has something else
/// for them. Comments, strings and raw parts are none.
pub(super) fn rewrite(source: &str, replace: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let first = |text: &str| ["{{", "{%", "{#"].iter().filter_map(|m| text.find(m)).min();
    while let Some(start) = first(rest) {
        let (before, inside) = rest.split_at(start + 2);
        let end = match &before[start..] {
            "{#" => inside.find("#}"),
            "{{" => end_of_tag(inside, "}}"),
            _ => end_of_tag(inside, "%}"),
        };
        // What does not end is refused when it is parsed.
        let Some(end) = end else { break };
        let (tag, after) = (&inside[..end], &inside[end + 2..]);
        let block = before.ends_with("{%");
        out.push_str(before);
        match replace(tag).filter(|_| block) {
            Some(replaced) => out.push_str(&replaced),
            None => out.push_str(tag),
        }
        out.push_str(&inside[end..end + 2]);
        let raw = if block && name(tag) == "raw" {
            end_of_raw(after)
        } else {
            0
        };
        out.push_str(&after[..raw]);
        rest = &after[raw..];
    }
    out + rest
}

/// A tag without its white space and what asks for the removal of white space around it.
pub(super) fn name(tag: &str) -> &str {
    tag.trim_matches(|c: char| c.is_ascii_whitespace() || c == '-' || c == '+')
}

/// Where the mark stands that ends a tag: outside of strings and brackets.
fn end_of_tag(tag: &str, mark: &str) -> Option<usize> {
    let (mut quote, mut open) = (None, 0);
    let mut chars = tag.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(chars.next()),
            (Some(q), _) if c == q => quote = None,
            (Some(_), _) => {}
            _ if open == 0 && tag[at..].starts_with(mark) => return Some(at),
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[' | '{') => open += 1,
            (None, ')' | ']' | '}') => open -= 1,
            (None, _) => {}
        }
    }
    None
}

/// Bytes up to the tag that ends a raw part.
fn end_of_raw(source: &str) -> usize {
    let mut at = 0;
    while let Some(start) = source[at..].find("{%") {
        at += start;
        let inside = &source[at + 2..];
        if inside
            .find("%}")
            .is_some_and(|end| name(&inside[..end]) == "endraw")
        {
            return at;
        }
        at += 2;
    }
    source.len()
}
