//! The report as one JSON object, for scripts.

use serde_json::{Value, json};

use super::examine::{Fit, Report};
use super::findings;
use crate::config::Problem;
use crate::protocol::Severity;

pub(super) fn report(report: &Report) -> Value {
    let wrong = findings::count(report.findings(), Severity::Wrong) > 0;
    let failed = wrong || report.trial.iter().any(|step| step.outcome.is_err());
    json!({
        "config": report.path,
        "ok": report.problems.is_empty() && !failed,
        "problems": report.problems.iter().map(problem).collect::<Vec<_>>(),
        "warnings": report.warnings.iter().map(problem).collect::<Vec<_>>(),
        "keys": report.loaded.as_ref().map(|l| &l.entries),
        "base": report.base.as_ref().map(|b| json!({
            "name": b.name,
            "architecture": b.config.architecture,
            "format": b.format,
            "notes": b.notes,
            "dtype": b.dtype,
            "parameters": b.parameters,
            "bytes": b.bytes,
            "layers": b.config.layers,
            "hidden_size": b.config.hidden_size,
            "vocabulary": b.config.vocab_size,
            "max_position_embeddings": b.config.max_position_embeddings,
        })),
        "data": report.data.as_ref().map(|d| json!({
            "statistics": d.statistics,
            "bad": d.bad.iter().map(|b| json!({
                "file": b.file,
                "line": b.line,
                "reason": b.reason,
            })).collect::<Vec<_>>(),
            "captions": d.captions,
        })),
        "adapter": report.adapter.as_ref().map(|a| json!({
            "rank": a.spec.rank,
            "use_dora": a.spec.use_dora,
            "shared_by_layers": a.spec.share_layers,
            "target_modules": a.spec.target_modules,
            "modules": a.modules,
            "parameters": a.parameters,
        })),
        "plan": report.plan.map(|p| json!({
            "steps_per_epoch": p.steps_per_epoch,
            "total_steps": p.total_steps,
        })),
        "memory": report.memory.as_ref().map(|m| json!({
            "program_bytes": m.estimate.program,
            "weights_bytes": m.estimate.weights,
            "adapter_bytes": m.estimate.adapter,
            "optimizer_bytes": m.estimate.optimizer,
            "activations_bytes": m.estimate.activations,
            "logits_bytes": m.estimate.logits,
            "pictures_bytes": m.estimate.pictures,
            "total_bytes": m.estimate.total(),
            "available_bytes": m.available,
            "fit": m.fit().map(|fit| match fit {
                Fit::Safe => "safe",
                Fit::Tight => "tight",
                Fit::Exceeds => "will not fit",
            }),
        })),
        "disk": report.disk.as_ref().map(|d| json!({
            "checkpoint_bytes": d.checkpoint_bytes,
            "checkpoints": d.checkpoints,
            "export_bytes": d.export_bytes,
            "free_bytes": d.free_bytes,
        })),
        "try": report.trial.iter().map(|step| json!({
            "step": step.name,
            "ok": step.outcome.is_ok(),
            "detail": match &step.outcome { Ok(text) | Err(text) => text },
            "seconds": step.seconds,
        })).collect::<Vec<_>>(),
    })
}

fn problem(problem: &Problem) -> Value {
    json!({
        "file": problem.path,
        "line": problem.line,
        "column": problem.column,
        "key": problem.key,
        "message": problem.message,
        "fix": problem.fix,
    })
}
