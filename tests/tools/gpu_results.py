"""Puts the figures of tests/gpu_bench.sh together: one JSON file and one table, named by device and date.

    gpu_results.py --device cuda:0 --program target/release/loradeck --output benches/results RESULT.json...
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import time
from pathlib import Path


def told(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine(device: str) -> dict[str, str]:
    if device == "cpu":
        return {"device": platform.processor() or platform.machine(), "driver": ""}
    query = told(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader", "-i", device.removeprefix("cuda:")])
    name, _, driver = query.partition(", ")
    return {"device": name, "driver": driver}


def row(name: str, result: dict) -> str:
    ours, peer, ratio = result["loradeck"], result.get("peft") or result.get("diffusers"), result.get("ratio", {})
    rate = "tokens_per_second" if "tokens_per_second" in ours else "images_per_second"
    number = lambda value, form: format(value, form) if value is not None else "-"
    return " | ".join(
        [
            f"| {name} {result['batch']} x {result['length']}",
            f"{ours[rate]:,.1f} {rate.split('_')[0]}/s",
            number(peer and peer[rate], ",.1f"),
            number(ratio.get("speed"), ".2f"),
            f"{ours['peak_memory_bytes'] / 2**30:.2f} GiB",
            number(peer and peer["peak_memory_bytes"] / 2**30, ".2f"),
            number(ratio.get("memory_above_base"), ".2f"),
            number(ours.get("gemm_share"), ".0%"),
            f"{ours['first_step_seconds']:.1f} s",
            number(peer and peer["first_step_seconds"], ".1f") + " |",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("results", type=Path, nargs="*")
    args = parser.parse_args()
    found = {path.stem.removeprefix("result-"): json.loads(path.read_text()) for path in args.results}
    about = machine(args.device) | {
        "loradeck": told([args.program, "--version"]),
        "revision": told(["git", "rev-parse", "--short", "HEAD"]),
        "versions": told(["python3", "-c", "import torch, transformers, peft; print('torch', torch.__version__, 'transformers', transformers.__version__, 'peft', peft.__version__)"]),
        "command": "tests/gpu_bench.sh",
        "date": time.strftime("%Y-%m-%d"),
    }
    name = "gpu-" + re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-") + "-" + about["date"]
    lines = [
        f"{about['device']}, driver {about['driver']}, {about['loradeck']} ({about['revision']}), {about['versions']}: `{about['command']}`",
        "",
        "| base, batch x length | loradeck | peer | speed ratio | peak memory | peer GiB | memory above the base, ratio | share of the GEMM rate | first step | peer s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(base, result) for base, results in found.items() for result in results]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{name}.json").write_text(json.dumps(about | {"results": found}, indent=1) + "\n")
    (args.output / f"{name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
