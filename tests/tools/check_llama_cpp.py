"""llama.cpp itself reads what loradeck writes: a GGUF base with a GGUF adapter gives loradeck's logits.

    loradeck generate --base BASE.gguf --lora ADAPTER --prompt "My knee hurts." --logits logits.safetensors
    loradeck export ADAPTER --format gguf --base BASE.gguf --output adapter.gguf
    python tests/tools/check_llama_cpp.py --base BASE.gguf --adapter adapter.gguf --logits logits.safetensors

Without --adapter the bare base is compared. The logits file holds `input_ids` (i64 [T]) and `logits` (f32
[T,V]). Fails (exit code 1, one sentence) when llama.cpp refuses a file, when the adapter changes nothing, or
when the logits differ by more than --tolerance: max |a - b| / max |b|. Tokens are given as ids: no tokenizer
takes part.

With --write FILE the logits of the bare base and of the adapter are written instead, for token ids from
--tokens: the fixture tests/fixtures/llama_cpp/expected.safetensors was made so, see README.md here.

llama.cpp comes in the prebuilt wheel xllamacpp from PyPI, whose library exports llama.cpp's C functions; they
are called through ctypes, with the structures of llama.h of that version (hence the pinned version).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import xllamacpp
from safetensors.torch import load_file, save_file

VERSION = "2026.10.11549"


def fields(text: str) -> list[tuple[str, type]]:
    """Fields as `type name` words, separated by commas."""
    kinds = {"u32": ctypes.c_uint32, "i32": ctypes.c_int32, "f32": ctypes.c_float, "ptr": ctypes.c_void_p, "size": ctypes.c_size_t, "bool": ctypes.c_bool}
    return [(name, kinds[kind]) for kind, name in (field.split() for field in text.replace("\n", " ").split(",") if field.strip())]


class ModelParams(ctypes.Structure):
    _fields_ = fields("""ptr devices, ptr tensor_buft_overrides, i32 n_gpu_layers, i32 split_mode, i32 load_mode, i32 lazy_mode,
        i32 main_gpu, ptr tensor_split, ptr progress_callback, ptr progress_callback_user_data, ptr kv_overrides,
        bool vocab_only, bool check_tensors, bool use_extra_bufts, bool no_host, bool no_alloc, bool load_mtp""")


class ContextParams(ctypes.Structure):
    _fields_ = fields("""u32 n_ctx, u32 n_batch, u32 n_ubatch, u32 n_seq_max, u32 n_rs_seq, u32 n_outputs_max,
        u32 n_outputs_max_per_seq, i32 n_threads, i32 n_threads_batch, i32 ctx_type, i32 rope_scaling_type, i32 pooling_type,
        i32 attention_type, i32 flash_attn_type, f32 rope_freq_base, f32 rope_freq_scale, f32 yarn_ext_factor,
        f32 yarn_attn_factor, f32 yarn_beta_fast, f32 yarn_beta_slow, u32 yarn_orig_ctx, f32 defrag_thold, ptr cb_eval,
        ptr cb_eval_user_data, i32 type_k, i32 type_v, size moe_cache_size, ptr abort_callback, ptr abort_callback_data,
        bool embeddings, bool offload_kqv, bool no_perf, bool op_offload, bool swa_full, bool kv_unified, ptr samplers,
        size n_samplers, ptr ctx_other""")


class Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
SILENT = LOG(lambda level, text, data: None)


def library() -> ctypes.CDLL:
    if metadata.version("xllamacpp") != VERSION:
        sys.exit(f"xllamacpp {VERSION} is needed: the structures here are those of its llama.h.")
    (path,) = Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    lib = ctypes.CDLL(str(path))
    pointer, integer, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p
    for name, result, arguments in [
        ("llama_log_set", None, [LOG, pointer]),
        ("llama_backend_init", None, []),
        ("llama_model_default_params", ModelParams, []),
        ("llama_model_load_from_file", pointer, [text, ModelParams]),
        ("llama_context_default_params", ContextParams, []),
        ("llama_init_from_model", pointer, [pointer, ContextParams]),
        ("llama_adapter_lora_init", pointer, [pointer, text]),
        ("llama_set_adapters_lora", integer, [pointer, ctypes.POINTER(pointer), ctypes.c_size_t, ctypes.POINTER(ctypes.c_float)]),
        ("llama_batch_init", Batch, [integer, integer, integer]),
        ("llama_batch_free", None, [Batch]),
        ("llama_decode", integer, [pointer, Batch]),
        ("llama_model_get_vocab", pointer, [pointer]),
        ("llama_vocab_n_tokens", integer, [pointer]),
        ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, integer]),
        ("llama_free", None, [pointer]),
        ("llama_model_free", None, [pointer]),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def logits_of(base: Path, adapters: list[tuple[Path, float]], ids: list[int]) -> np.ndarray:
    """Logits f32 [T, V] of llama.cpp."""
    lib = library()
    lib.llama_log_set(SILENT, None)
    lib.llama_backend_init()
    parameters = lib.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(base).encode(), parameters)
    if not model:
        sys.exit(f"llama.cpp does not load the base {base}.")
    options = lib.llama_context_default_params()
    options.n_ctx = max(256, len(ids))
    options.n_batch = options.n_ubatch = options.n_ctx
    options.n_threads = options.n_threads_batch = 2
    # Keys and values in f32, so that only the weights' types round.
    options.type_k = options.type_v = 0
    options.flash_attn_type = 0
    context = lib.llama_init_from_model(model, options)
    if not context:
        sys.exit(f"llama.cpp makes no context for {base}.")
    loaded = []
    for path, _ in adapters:
        adapter = lib.llama_adapter_lora_init(model, str(path).encode())
        if not adapter:
            sys.exit(f"llama.cpp does not load the adapter {path}.")
        loaded.append(adapter)
    if loaded:
        pointers = (ctypes.c_void_p * len(loaded))(*loaded)
        scales = (ctypes.c_float * len(loaded))(*(scale for _, scale in adapters))
        if lib.llama_set_adapters_lora(context, pointers, len(loaded), scales) != 0:
            sys.exit("llama.cpp does not take the adapters.")
    batch = lib.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    if lib.llama_decode(context, batch) != 0:
        sys.exit("llama.cpp fails to compute.")
    vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (vocabulary,)).copy() for i in range(len(ids))]
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
    return np.stack(rows)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, action="append", default=[])
    parser.add_argument("--logits", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--tokens", help="token ids as JSON, for --write")
    args = parser.parse_args()
    adapters = [(path, 1.0) for path in args.adapter]
    if args.write:
        ids = json.loads(args.tokens)
        tensors = {"input_ids": torch.tensor(ids), "bare": torch.from_numpy(logits_of(args.base, [], ids))}
        tensors["adapted"] = torch.from_numpy(logits_of(args.base, adapters, ids))
        save_file(tensors, args.write, {"xllamacpp": VERSION})
        print(f"wrote {args.write} with llama.cpp (xllamacpp {VERSION}); the adapter moves the logits by {relative(tensors['adapted'].numpy(), tensors['bare'].numpy()):.2e}")
        return
    file = load_file(args.logits)
    ids, ours = file["input_ids"].tolist(), file["logits"].float().numpy()
    theirs = logits_of(args.base, adapters, ids)
    if ours.shape != theirs.shape:
        sys.exit(f"The logits' shapes differ: {list(ours.shape)} here, {list(theirs.shape)} in llama.cpp.")
    error = relative(ours, theirs)
    print(f"llama.cpp (xllamacpp {VERSION}): logits over {len(ids)} tokens, ours against llama.cpp's {error:.2e} (limit {args.tolerance:.0e})")
    if adapters:
        moved = relative(theirs, logits_of(args.base, [], ids))
        print(f"the adapter moves llama.cpp's logits by {moved:.2e}")
        if moved < 10 * args.tolerance:
            sys.exit("The adapter moves the logits by too little for this comparison to prove anything.")
    if error > args.tolerance:
        sys.exit(f"The logits differ by {error:.2e}, more than {args.tolerance:.0e}.")


if __name__ == "__main__":
    main()
