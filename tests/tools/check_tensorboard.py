"""Checks that a run's TensorBoard files hold the same losses as its event log.

    python tests/tools/check_tensorboard.py --run output/demo

Reads RUN/logs with tensorboard's own EventAccumulator; the scalar `training_loss` must hold, step for
step, the loss of every step in RUN/events.*.jsonl. Steps that a resume did over again count once.
Exit code 1, with a sentence, if they differ.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAG = "training_loss"


def logged_losses(run: Path) -> dict[int, float]:
    """Step -> loss, as a reader of the event log sees it: a `resumed` line drops what came after its step."""
    files = sorted(run.glob("events.*.jsonl"))
    if not files:
        sys.exit(f"{run} holds no events.*.jsonl: is it a run folder?")
    losses: dict[int, float] = {}
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                event = json.loads(line)
            except ValueError as error:
                sys.exit(f"{file}:{number} is not JSON: {error}")
            if event.get("type") == "resumed":
                losses = {step: loss for step, loss in losses.items() if step <= event["step"]}
            elif event.get("type") == "step" and event.get("loss") is not None:
                losses[event["step"]] = float(event["loss"])  # float() also reads "NaN", "Infinity", "-Infinity"
    return losses


def written_losses(run: Path) -> dict[int, float]:
    """Step -> loss from TensorBoard's files; a step written again by a resumed run replaces the old one."""
    if not (run / "logs").is_dir():
        sys.exit(f"{run}/logs does not exist: no TensorBoard files were written.")
    accumulator = EventAccumulator(str(run / "logs"), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    if TAG not in tags:
        sys.exit(f"{run}/logs has no scalar `{TAG}`; it has {', '.join(tags) or 'none'}.")
    return {e.step: e.value for e in accumulator.Scalars(TAG)}


def same(a: float, b: float) -> bool:
    """Equal as f32, which is what TensorBoard stores."""
    return (math.isnan(a) and math.isnan(b)) or a == b or math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="the run folder (output_dir)")
    run = parser.parse_args().run
    log, board = logged_losses(run), written_losses(run)
    if not log:
        sys.exit(f"{run} has no step in its event log: nothing to compare.")
    missing, extra = sorted(log.keys() - board.keys()), sorted(board.keys() - log.keys())
    if missing or extra:
        sys.exit(f"The steps differ: {len(missing)} are missing in TensorBoard's files {missing[:5]}, {len(extra)} are there but not in the log {extra[:5]}.")
    wrong = [s for s in sorted(log) if not same(log[s], board[s])]
    if wrong:
        s = wrong[0]
        sys.exit(f"{len(wrong)} of {len(log)} losses differ; the first at step {s}: {log[s]} in the event log, {board[s]} in TensorBoard's files.")
    print(f"{len(log)} steps ({min(log)} to {max(log)}), every {TAG} equal")


if __name__ == "__main__":
    main()
