"""Writes tests/fixtures/medical_qa: 100 dialogues for a medical question-answering adapter, with faults
planted in them, and planted.json, which lists each fault by its place. The text is that of dialogues.py.

    python tests/tools/make_medical_qa.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from dialogues import CASES, Case

FOLDER = Path(__file__).parents[1] / "fixtures" / "medical_qa"
HELD_OUT = 12


def talk(*turns: str) -> dict:
    """A dialogue: the patient and the doctor in turn."""
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}


def about(case: Case) -> list[dict]:
    """Five dialogues about one complaint that have no sentence in common."""
    (first, answers), (second, more) = case.questions[:2]
    days = [opening.format(days="five days") for opening in case.openings]
    return [
        talk(days[0], ", ".join(case.advice[:2]) + "."),
        talk(f"With {case.name}, what would be an alarming sign?", f"Come in at once if {case.red_flags}."),
        talk(*case.extra),
        talk(days[1], first, answers[0], f"Good. Then {case.advice[2]}."),
        talk(days[2], second, more[0], "That is reassuring. Tell me how it goes on Friday."),
    ]


def main() -> None:
    dialogues = [dialogue for case in CASES for dialogue in about(case)]
    # Round robin over the complaints, so that neighbours are about something else.
    dialogues = [dialogue for kind in range(5) for dialogue in dialogues[kind::5]][:92]
    train, held_out = dialogues[:-HELD_OUT], dialogues[-HELD_OUT:]
    planted: dict[str, list[str]] = {}

    def plant(kind: str, split: list, name: str, at: int, record: dict) -> None:
        split.insert(at, record)
        planted.setdefault(kind, []).append(f"{name}:{at + 1}")

    # From the front to the back, so that places stay as they are written down.
    plant("empty_answers", train, "train.jsonl", 10, talk("My knee clicks when I climb stairs.", " \n"))
    plant("records_of_another_kind", train, "train.jsonl", 20,
          {"image": "xray_017.png", "label": 3, "width": 512, "height": 512})
    plant("other_format", train, "train.jsonl", 30,
          {"instruction": "Name three foods that are rich in iron.", "output": "Lentils, spinach and red meat."})
    plant("exact_duplicates", train, "train.jsonl", 40, train[3])
    plant("exact_duplicates", train, "train.jsonl", 50, {"conversations": [
        {"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in train[5]["messages"]]})
    planted.setdefault("other_format", []).append("train.jsonl:51")
    near = json.loads(json.dumps(train[60]))
    for message in near["messages"]:
        message["content"] = message["content"].upper().replace(".", " !").replace(",", "")
    plant("near_duplicates", train, "train.jsonl", 70, near)
    alarming = [record for record in train if "alarming sign" in json.dumps(record)]
    near = json.loads(json.dumps(max(alarming, key=lambda record: len(record["messages"][1]["content"]))))
    words = near["messages"][1]["content"].split()
    near["messages"][1]["content"] = " ".join(words[:-1] + ["worse."])
    plant("near_duplicates", train, "train.jsonl", 80, near)
    plant("leaks", held_out, "eval.jsonl", 6, train[15])
    assert len(train) + len(held_out) == 100, (len(train), len(held_out))

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    for name, split in (("train.jsonl", train), ("eval.jsonl", held_out)):
        (FOLDER / name).write_text("".join(json.dumps(record) + "\n" for record in split))
    (FOLDER.parent / "medical_qa.json").write_text(json.dumps(planted, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
