"""Measures `loradeck check` on many records: writes them into a folder (made-up questions and answers,
one in a thousand a near duplicate), scans them twice, and prints time and peak memory of each.

    python tests/tools/scan_a_million.py target/release/loradeck [--records 1000000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import tempfile
import time
from pathlib import Path

WORDS = Path(__file__).with_name("dialogues.py").read_text()


def records(count: int):
    """Dialogues of words of dialogues.py in random order, about as long as real ones."""
    words = sorted(set(re.findall(r"[a-z]{3,}", WORDS)))
    draw = random.Random(1)
    last = None
    for index in range(count):
        if last is not None and index % 1000 == 999:
            answer = last[1].split()
            answer[len(answer) // 2] = "differently"
            yield last[0], " ".join(answer)
            continue
        last = " ".join(draw.choices(words, k=12)) + "?", " ".join(draw.choices(words, k=draw.randrange(25, 60))) + "."
        yield last


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("loradeck")
    parser.add_argument("--records", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        with open(data / "train.jsonl", "w") as out:
            for question, answer in records(arguments.records):
                out.write(json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}) + "\n")
        config = Path(folder, "run.yaml")
        config.write_text(f"base_model: builtin:tiny-llama\ntrain_data_dir: {data}\noutput_dir: {folder}/out\n")
        print(f"{arguments.records} records, {(data / 'train.jsonl').stat().st_size >> 20} MiB")
        for name in ("first", "again"):
            begun = time.monotonic()
            child = subprocess.Popen([arguments.loradeck, "check", str(config), "--json"], stdout=subprocess.PIPE,
                                     env={**os.environ, "LORADECK_CACHE": f"{folder}/cache"})
            report = json.loads(child.stdout.read())
            _, _, usage = os.wait4(child.pid, 0)
            found = {f["kind"]: f["count"] for f in report["data"]["statistics"]["findings"]}
            print(f"{name}: {time.monotonic() - begun:.1f} s, peak {usage.ru_maxrss >> 10} MiB, found {found}")


if __name__ == "__main__":
    main()
