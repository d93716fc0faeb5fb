//! What was found in the data, for a person.

use std::fmt::Write;

use super::text::{grouped, heading};
use crate::protocol::{Finding, Severity};

/// Records that are listed of a finding which does not end the run.
const LISTED: usize = 20;

pub(super) fn write(out: &mut String, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    heading(out, "Findings");
    for finding in findings {
        let word = match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Wrong => "error",
        };
        let _ = writeln!(out, "  {word}: {}", finding.message);
        let listed = match finding.severity {
            Severity::Wrong => finding.items.len(),
            _ => LISTED,
        };
        for item in finding.items.iter().take(listed) {
            let detail = match item.detail.is_empty() {
                true => String::new(),
                false => format!(": {}", item.detail),
            };
            let _ = writeln!(out, "    {}{detail}", item.name);
        }
        let more = finding.items.len().saturating_sub(listed);
        if more > 0 {
            let more = grouped(more as u64);
            let _ = writeln!(out, "    and {more} more (all with --json)");
        }
        if !finding.remedy.is_empty() {
            let _ = writeln!(out, "    fix: {}", finding.remedy);
        }
    }
}

/// Findings of a severity.
pub(in crate::commands) fn count(findings: &[Finding], severity: Severity) -> u64 {
    findings.iter().filter(|f| f.severity == severity).count() as u64
}
