"""The comparisons of tests/gpu.sh. Needs nothing but Python.

    gpu_check.py curves RUN RUN TOLERANCE       every step's loss within TOLERANCE of the other's
    gpu_check.py wait-for-step RUN STEP         until the run has made the step
    gpu_check.py same-files FOLDER FOLDER       the same files with the same bytes
    gpu_check.py message RUN TEXT               the run's log says so
    gpu_check.py process-gone PID               nvidia-smi lists the process no more
    gpu_check.py readings PROGRAM SCRATCH DEVICE  memory, temperature and power are nvidia-smi's
    gpu_check.py records FOLDER COUNT WORDS     texts of so many words of tests/tools/make_random_llama.py
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path


def events(run: str) -> list[dict]:
    found = []
    for file in sorted(Path(run).glob("events.*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                pass  # the last line of a run that is being written
    return found


def losses(run: str) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in events(run) if event["type"] == "step"}


def curves(first: str, second: str, tolerance: str) -> None:
    a, b = losses(first), losses(second)
    if a.keys() != b.keys() or not a:
        sys.exit(f"steps {sorted(a)} here, {sorted(b)} there")
    worst = max(a, key=lambda step: abs(a[step] - b[step]) / a[step])
    off = abs(a[worst] - b[worst]) / a[worst]
    print(f"figure: at most {off:.2e} off, at step {worst}")
    if not off <= float(tolerance):
        sys.exit(f"step {worst}: {a[worst]} here, {b[worst]} there")


def wait_for_step(run: str, step: str) -> None:
    end = time.time() + 300
    while time.time() < end:
        if any(made >= int(step) for made in losses(run)):
            return
        time.sleep(0.05)
    sys.exit(f"step {step} was not made within 300 s")


def same_files(first: str, second: str) -> None:
    def read(folder: str) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}

    a, b = read(first), read(second)
    different = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    if different or not a:
        sys.exit(f"{len(a)} files; different: {different}")


def message(run: str, text: str) -> None:
    told = [event.get("text", "") for event in events(run) if event["type"] == "message"]
    hits = [line for line in told if text in line]
    if not hits:
        sys.exit("the run said: " + "\n".join(told))
    print(f"figure: {hits[0]}")


def smi(query: str, fields: str) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-{query}={fields}", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [[field.strip() for field in line.split(",")] for line in lines if line.strip()]


def process_gone(pid: str) -> None:
    for _ in range(50):
        if all(row[0] != pid for row in smi("compute-apps", "pid")):
            return
        time.sleep(0.2)
    sys.exit(f"nvidia-smi still lists process {pid}")


def readings(program: str, scratch: str, device: str) -> None:
    run = f"{scratch}/readings"
    settings = [f"output_dir={run}", f"device={device}", "max_steps=100000", "eval_steps=100000", "sample_steps=100000"]
    command = [program, "train", "configs/demo.yaml", "--headless"]
    running = subprocess.Popen(command + [word for setting in settings for word in ("--set", setting)], stdout=subprocess.DEVNULL)
    try:
        wait_for_step(run, "20")
        seen, end = None, time.time() + 30
        while time.time() < end:
            time.sleep(2.5)
            gpus = [event["gpu"] for event in events(run) if event["type"] == "hardware"]
            ours = {gpu["uuid"]: gpu for gpu in gpus[-1].get("gpus", [])} if gpus else {}
            used = [gpu for gpu in ours.values() if gpu["in_use"]]
            if len(used) != 1:
                continue
            for uuid, memory, temperature, power in smi("gpu", "uuid,memory.used,temperature.gpu,power.draw"):
                if uuid == used[0]["uuid"]:
                    seen = (used[0], float(memory) * 2**20, float(temperature), power)
            if seen and used[0].get("memory_run"):
                break
        if not seen:
            sys.exit(f"no reading names the device in use: {gpus[-1:]}")
        gpu, memory, temperature, power = seen
        print(f"figure: memory {gpu['memory_used'] / 2**20:.0f} and {memory / 2**20:.0f} MiB, of the run {(gpu.get('memory_run') or 0) / 2**20:.0f} MiB,")
        print(f"figure: {gpu['temperature']} and {temperature:.0f} degrees, {gpu['power']} and {power} W")
        if abs(gpu["memory_used"] - memory) > 0.02 * memory + 2**26:
            sys.exit("the memory differs")
        if gpu["temperature"] is None or abs(gpu["temperature"] - temperature) > 6:
            sys.exit("the temperature differs")
        if not gpu.get("memory_run"):
            sys.exit("nothing tells what this run uses")
    finally:
        running.terminate()
        running.wait(60)


def records(folder: str, count: str, words: str) -> None:
    rng = random.Random(7)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / "records.jsonl", "w", encoding="utf-8") as out:
        for _ in range(int(count)):
            out.write(json.dumps({"text": " ".join(f"w{rng.randrange(4000)}" for _ in range(int(words)))}) + "\n")


if __name__ == "__main__":
    tasks = {
        "curves": curves, "wait-for-step": wait_for_step, "same-files": same_files, "message": message,
        "process-gone": process_gone, "readings": readings, "records": records,
    }
    if len(sys.argv) < 2 or sys.argv[1] not in tasks:
        sys.exit(__doc__)
    tasks[sys.argv[1]](*sys.argv[2:])
