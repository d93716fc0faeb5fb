#!/usr/bin/env python3
"""Records the losses of real runs for the alerts' tests: tests/fixtures/alerts/*.json.

    python3 tests/tools/record_alerts.py target/release/loradeck [NAME...]

Every run is the built-in base on the first 48 records of configs/demo, on the CPU, so that a
recording takes seconds. A recording holds [step, loss, learning rate] of every step and [step,
held-out loss] of every eval; non-finite losses are null.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(sys.argv[1]).resolve()
BASE = {
    "lora_alpha": "16",
    "batch_size": "8",
    "learning_rate": "3e-3",
    "sequence_len": "96",
    "eval_split": "8",
    "eval_steps": "10",
    "save_steps": "100000",
    "epochs": "60",
}
# Name, what differs from BASE, and a learning rate that is set after so many steps.
RUNS = [
    ("healthy", {"epochs": "20"}, None),
    ("overfit", {"learning_rate": "1e-2", "lora_rank": "32", "lr_scheduler": "constant"}, None),
    ("spike", {"lr_scheduler": "constant"}, (80, "3e-1")),
    ("oscillation", {"learning_rate": "6e-2", "lr_scheduler": "constant", "batch_size": "4",
                     "max_grad_norm": "0", "epochs": "30"}, None),
    # One record a step: losses that jump by chance, at a rate that is right.
    ("noisy", {"batch_size": "1", "learning_rate": "5e-5", "lr_scheduler": "constant",
               "epochs": "75"}, None),
]


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    data = folder / "data"
    data.mkdir()
    lines = (ROOT / "configs/demo/train.jsonl").read_text().splitlines(True)
    (data / "train.jsonl").write_text("".join(lines[:48]))
    for name, changes, then in RUNS:
        if sys.argv[2:] and name not in sys.argv[2:]:
            continue
        values = BASE | changes | {
            "base_model": "builtin:tiny-llama",
            "train_data_dir": str(data),
            "output_dir": str(folder / name),
        }
        config = folder / f"{name}.yaml"
        config.write_text("".join(f"{k}: {v}\n" for k, v in values.items()))
        run = subprocess.Popen([PROGRAM, "train", config, "--headless"], stdout=subprocess.DEVNULL)
        while then and run.poll() is None:
            if steps(folder / name) >= then[0]:
                subprocess.run([PROGRAM, "send", folder / name, "set", f"learning_rate={then[1]}"],
                               check=True, stdout=subprocess.DEVNULL)
                break
            time.sleep(0.05)
        run.wait()
        record(name, folder / name)


def events(run):
    for segment in sorted(run.glob("events.*.jsonl")):
        for line in segment.read_text().splitlines():
            yield json.loads(line)


def steps(run):
    try:
        return max((e["step"] for e in events(run) if e["type"] == "step"), default=0)
    except (OSError, ValueError):
        return 0


def record(name, run):
    number = lambda v: None if isinstance(v, str) else round(v, 4)
    kept = {"steps": [], "evals": []}
    for e in events(run):
        if e["type"] == "step":
            kept["steps"].append([e["step"], number(e["loss"]), float(f"{e['learning_rate']:.4g}")])
        elif e["type"] == "eval":
            kept["evals"].append([e["step"], number(e["loss"])])
    path = ROOT / "tests/fixtures/alerts" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept) + "\n")
    print(name, len(kept["steps"]), "steps,", [s[1] for s in kept["steps"][::10]])


main()
