"""Writes LLaMA files in GGML's last format before GGUF (`ggjt` version 3), as llama.cpp of June to August 2023 did.

    python tests/tools/make_ggjt.py --shape llama-2-7b /tmp/llama-2-7b.ggmlv3.q4_0.bin    # 3.8 GB of random q4_0 weights
    python tests/tools/make_ggjt.py --shape tiny /tmp/tiny.ggmlv3.q4_0.bin

The weights are random, with scales as a trained model has them: for measuring, not for talking. `--vocabulary FILE` takes the
tokens from a SentencePiece model (LLaMA's tokenizer.model); without it they are made up. `make_fixtures.py` uses `write` for
the file that the tests read.
"""

from __future__ import annotations

import argparse
import struct
from pathlib import Path
from typing import BinaryIO, Iterator

import numpy as np

F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 = 0, 1, 2, 3, 6, 7, 8
SHAPES = {
    # vocabulary, hidden size, heads, key/value heads, layers, MLP
    "llama-2-7b": (32000, 4096, 32, 32, 32, 11008),
    "llama-2-13b": (32000, 5120, 40, 40, 40, 13824),
    "tiny": (512, 64, 4, 2, 2, 96),
}
Q4_0_BLOCK, Q4_0_BYTES = 32, 18


def write_header(file: BinaryIO, vocabulary: list[tuple[bytes, float]], hidden: int, heads: int, layers: int, file_type: int) -> None:
    """Magic, version, n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype; then every token's bytes and score."""
    file.write(struct.pack("<9I", 0x67676A74, 3, len(vocabulary), hidden, 256, heads, layers, hidden // heads, file_type))
    for token, score in vocabulary:
        file.write(struct.pack("<I", len(token)) + token + struct.pack("<f", score))


def write_tensor(file: BinaryIO, name: str, shape: tuple[int, ...], kind: int, data: Iterator[bytes]) -> None:
    file.write(struct.pack("<3I", len(shape), len(name), kind) + struct.pack(f"<{len(shape)}I", *reversed(shape)) + name.encode())
    file.write(b"\0" * (-file.tell() % 32))
    for part in data:
        file.write(part)


def write(path: Path, vocabulary: list[tuple[bytes, float]], heads: int, layers: int, tensors: dict[str, tuple[tuple[int, ...], int, Iterator[bytes]]]) -> None:
    """A whole file; tensors by their names: shape, type and bytes. Rows of wq and wk in the order of interleaved pairs."""
    hidden = tensors["norm.weight"][0][0]
    with path.open("wb") as file:
        write_header(file, vocabulary, hidden, heads, layers, Q4_0)
        for name, (shape, kind, data) in tensors.items():
            write_tensor(file, name, shape, kind, data)


def from_sentencepiece(model: Path) -> list[tuple[bytes, float]]:
    """As llama.cpp's convert.py of that time: spaces for U+2581, bytes as themselves, control tokens empty."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(str(model))
    return [(token_bytes(processor.id_to_piece(i), processor.is_unknown(i), processor.is_control(i), processor.is_byte(i)), processor.get_score(i))
            for i in range(processor.vocab_size())]


def token_bytes(piece: str, unknown: bool, control: bool, byte: bool) -> bytes:
    if unknown:
        return " \u2047 ".encode()
    if control:
        return b""
    if byte:
        return bytes([int(piece[3:-1], 16)])
    return piece.replace("\u2581", " ").encode()


def made_up(count: int) -> list[tuple[bytes, float]]:
    """Unknown, begin, end, all bytes, the printable characters, then words of letters."""
    tokens = [" \u2047 ".encode(), b"", b""] + [bytes([b]) for b in range(256)]
    pieces = [chr(c).encode() for c in range(32, 127)]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces += [(space + a + b).encode() for a in letters for b in letters for space in (" ", "")]
    pieces += [(space + a + b + c).encode() for a in letters for b in letters for c in letters for space in (" ", "")]
    tokens += pieces[: count - len(tokens)]
    return [(token, -float(i - 259) if i >= 259 else 0.0) for i, token in enumerate(tokens)]


def random_q4_0(rng: np.random.Generator, rows: int, columns: int, deviation: float = 0.02) -> Iterator[bytes]:
    """Blocks of a scale (f16) and 32 numbers of 4 bits, whose standard deviation is 4.6."""
    rows_at_once = max(1, (1 << 24) // columns)
    for first in range(0, rows, rows_at_once):
        blocks = min(rows_at_once, rows - first) * columns // Q4_0_BLOCK
        data = rng.integers(0, 256, (blocks, Q4_0_BYTES), dtype=np.uint8)
        scales = (deviation / 4.6 * rng.uniform(0.5, 1.5, blocks)).astype(np.float16)
        data[:, :2] = scales.view(np.uint8).reshape(blocks, 2)
        yield data.tobytes()


def random_model(shape: tuple[int, ...], seed: int) -> dict[str, tuple[tuple[int, ...], int, Iterator[bytes]]]:
    vocabulary, hidden, heads, kv_heads, layers, mlp = shape
    rng = np.random.default_rng(seed)
    kv = hidden // heads * kv_heads
    matrix = lambda rows, columns: ((rows, columns), Q4_0, random_q4_0(rng, rows, columns))
    norm = lambda: ((hidden,), F32, iter([np.ones(hidden, np.float32).tobytes()]))
    tensors = {"tok_embeddings.weight": matrix(vocabulary, hidden), "norm.weight": norm(), "output.weight": matrix(vocabulary, hidden)}
    for layer in range(layers):
        for name, rows, columns in [("attention.wq", hidden, hidden), ("attention.wk", kv, hidden), ("attention.wv", kv, hidden), ("attention.wo", hidden, hidden),
                                    ("feed_forward.w1", mlp, hidden), ("feed_forward.w2", hidden, mlp), ("feed_forward.w3", mlp, hidden)]:
            tensors[f"layers.{layer}.{name}.weight"] = matrix(rows, columns)
        tensors[f"layers.{layer}.attention_norm.weight"] = norm()
        tensors[f"layers.{layer}.ffn_norm.weight"] = norm()
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-2-7b")
    parser.add_argument("--vocabulary", type=Path, help="a SentencePiece model")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    vocabulary = from_sentencepiece(args.vocabulary) if args.vocabulary else made_up(shape[0])
    shape = (len(vocabulary), *shape[1:])
    write(args.output, vocabulary, shape[2], shape[4], random_model(shape, args.seed))
    print(f"{args.output}: {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
