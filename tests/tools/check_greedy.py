"""Greedy text of loradeck equals that of transformers with PEFT.

    loradeck generate --base BASE --lora ADAPTER --prompt PROMPT --max-tokens 200 > text.txt
    python tests/tools/check_greedy.py --base BASE --adapter ADAPTER --prompt PROMPT --text text.txt [--tokens 200]

BASE is a GGUF file (transformers dequantises it to f32) or a Hugging Face folder. The prompt runs through the
base's own chat template. Fails (exit code 1) when the texts differ, or are shorter than --tokens without an
end-of-sequence token.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import torch
from transformers import AutoTokenizer
from transformers.utils import logging

from check_peft import load_adapter, load_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=200)
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    path = Path(args.base)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name) if path.is_file() else AutoTokenizer.from_pretrained(path)
    model = load_adapter(load_base(args.base), args.adapter)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": args.prompt}], add_generation_prompt=True, tokenize=False)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    ours = args.text.read_text(encoding="utf-8").removesuffix("\n")
    with torch.no_grad():
        whole = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=args.tokens, do_sample=False, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0)[0]
    new = whole[ids.shape[1]:]
    theirs = tokenizer.decode(new, skip_special_tokens=True)
    print(f"{len(new)} tokens from transformers and PEFT: {theirs[:120]!r}...")
    if len(new) < args.tokens and int(new[-1]) != tokenizer.eos_token_id:
        sys.exit(f"Only {len(new)} tokens were generated.")
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        sys.exit(f"The texts differ from character {at} on:\n ours   {ours[at:at + 80]!r}\n theirs {theirs[at:at + 80]!r}")
    print("equal, character by character")


if __name__ == "__main__":
    main()
