"""Writes the reference numbers that the Rust tests are held against (transformers + PEFT, f32, CPU).

    python tests/tools/make_fixtures.py                 # all of tests/fixtures
    python tests/tools/make_fixtures.py --only llama    # llama, families, schedules, gguf, ggml or tokenizers

Deterministic: tiny random models from a fixed seed, one thread. What lies in each folder:

llama_<case>/, families/<case>/
               config.json, model*.safetensors   the base
               adapter/                          a PEFT adapter with random A and B
               batch.json                        input_ids, labels (-100: masked or padding), attention_mask
               expected.safetensors              logits [B,T,V], loss [], hidden.0 (embeddings), hidden.i (after block i),
                                                 base_loss (without the adapter), grad.<PEFT key> of the loss
               Right padding: compare logits and hidden states where attention_mask is 1.
schedules.json factors of transformers' schedules per step (the learning rate is peak * factor).
gguf/          tiny-*.gguf with expected logits in tiny-*.safetensors (input_ids [T] i64, logits [T,V] f32: of the dequantised weights);
               tiny-tokens.json (their tokenizer); smollm2.json and tiny-llama.json (token ids, rendered chat templates).
               family-*.gguf: the families but LLaMA. k-*.gguf: the K-quants, their blocks filled at random with sane scales.
ggml/          tiny.ggmlv3.bin (ggjt v3, q4_0, grouped-query) with its logits, llama-tokens.gguf (the same tokens in GGUF), and
               tokens.json: token ids by sentencepiece itself; a special token in a text ends a piece of text, as in Meta's code.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import warnings
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")  # read when tqdm is imported

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast,
                          get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup)
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[2]
QKVO = ["q_proj", "k_proj", "v_proj", "o_proj"]
VOCAB = 160
TINY = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, pad_token_id=0)

CASES: dict[str, dict] = {
    # MHA/GQA, tied; config.json as transformers 5 writes it (rope_parameters, dtype)
    "tied_gqa": dict(config={}, lora=dict(target_modules=QKVO), dtype=torch.float32),
    # head_dim is not hidden / heads; untied; all linear layers; bf16 weights
    "untied_headdim": dict(config=dict(head_dim=24, tie_word_embeddings=False), lora=dict(target_modules="all-linear"), dtype=torch.bfloat16),
    # Llama 3's rope; rsLoRA; three shards in f16; classic config.json (rope_theta, rope_scaling)
    "rope_llama3": dict(config=dict(num_hidden_layers=3), lora=dict(target_modules=QKVO, use_rslora=True), dtype=torch.float16, shard="90KB", classic=True,
                        rope=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)),
    # linear rope scaling, another theta, one kv head; a subset of the modules; classic config.json with the old name `type`
    "rope_linear": dict(config=dict(num_key_value_heads=1), lora=dict(target_modules=["q_proj", "v_proj"]), dtype=torch.float16, classic=True,
                        theta=50000.0, rope=dict(rope_type="linear", factor=4.0)),
}


# The other families of the LLaMA kind, and what of LLaMA the cases above lack. The longest row has 28 tokens: windows and
# original contexts are shorter, so that they matter.
SMALL = dict(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, pad_token_id=0)
LINEAR = dict(target_modules="all-linear")
FAMILIES: dict[str, dict] = {
    "llama_bias": dict(type="llama", config=dict(attention_bias=True, mlp_bias=True), lora=LINEAR),
    "llama_dynamic": dict(type="llama", config=dict(), rope=dict(rope_type="dynamic", factor=4.0), lora=LINEAR),
    "mistral": dict(type="mistral", config=dict(sliding_window=8), lora=LINEAR),
    "mistral_no_window": dict(type="mistral", config=dict(sliding_window=None, head_dim=16, tie_word_embeddings=False), lora=dict(target_modules=QKVO)),
    "qwen2": dict(type="qwen2", config=dict(), lora=LINEAR),
    "qwen2_window": dict(type="qwen2", config=dict(use_sliding_window=True, sliding_window=6, max_window_layers=1), lora=dict(target_modules=QKVO)),
    "qwen3": dict(type="qwen3", config=dict(head_dim=12), theta=1e6, lora=LINEAR),
    "qwen3_yarn": dict(type="qwen3", config=dict(head_dim=16), rope=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16), lora=dict(target_modules=QKVO)),
    "phi3": dict(type="phi3", config=dict(sliding_window=9, tie_word_embeddings=False), lora=LINEAR),
    # Rows longer than the original context: the long factors hold.
    "phi3_longrope": dict(type="phi3", config=dict(num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=16, partial_rotary_factor=0.75),
                          rope=dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.2, 1.5, 2.0, 3.0], long_factor=[1.5, 2.0, 3.0, 4.0, 6.0, 8.0]),
                          lora=dict(target_modules=["qkv_proj", "o_proj"])),
    "smollm3": dict(type="smollm3", config=dict(num_hidden_layers=3, no_rope_layer_interval=2), lora=LINEAR),
    "smollm3_window": dict(type="smollm3", config=dict(no_rope_layers=[0, 1], use_sliding_window=True, sliding_window=5, attention_bias=True), lora=dict(target_modules=QKVO)),
}


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def tiny_llama(seed: int, theta: float = 10000.0, rope: dict | None = None, **changes: object) -> LlamaForCausalLM:
    """A random LLaMA whose activations are of a trained model's size (not the near-zero of the default init)."""
    torch.manual_seed(seed)
    parameters = {"rope_type": "default", "rope_theta": theta} | (rope or {})
    config = LlamaConfig(**(TINY | changes), rope_parameters=parameters, attn_implementation="eager")
    return randomise(LlamaForCausalLM(config))


@torch.no_grad()
def randomise(model: PreTrainedModel) -> PreTrainedModel:
    for name, p in model.eval().named_parameters():
        p.normal_(1.0, 0.2) if "norm" in name else p.normal_(0.0, 0.2 if "embed" in name or "lm_head" in name else 0.12)
    return model


def small_model(seed: int, case: dict, **changes: object) -> PreTrainedModel:
    """A random model of one of FAMILIES."""
    torch.manual_seed(seed)
    parameters = {"rope_type": "default", "rope_theta": case.get("theta", 10000.0)} | case.get("rope", {})
    config = AutoConfig.for_model(case["type"], **(SMALL | case["config"] | changes), rope_parameters=parameters)
    config._attn_implementation = "eager"
    return randomise(AutoModelForCausalLM.from_config(config))


def save_base(model: PreTrainedModel, folder: Path, dtype: torch.dtype, shard: str = "5GB", classic: bool = False) -> PreTrainedModel:
    """Saves in dtype and reads back in f32, so that the file's numbers are the reference's numbers."""
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if classic:
        config = json.loads((folder / "config.json").read_text())
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        if rope["rope_type"] == "linear":
            rope["type"] = rope.pop("rope_type")
        config["rope_scaling"] = rope
        config["torch_dtype"] = config.pop("dtype", "float32")
        write_json(folder / "config.json", config)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def random_batch(rng: np.random.Generator, lengths: list[int], vocab: int) -> dict[str, list[list[int]]]:
    """Rows of the given lengths, right-padded; about the first third of each row is masked, as a prompt is."""
    width = max(lengths)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for n in lengths:
        ids = rng.integers(3, vocab, n).tolist()
        prompt = n // 3
        batch["input_ids"].append(ids + [0] * (width - n))
        batch["labels"].append([-100] * prompt + ids[prompt:] + [-100] * (width - n))
        batch["attention_mask"].append([1] * n + [0] * (width - n))
    return batch


def tensors(batch: dict[str, list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(batch[k]) for k in ("input_ids", "labels", "attention_mask"))


def sum_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Summed next-token loss and the number of tokens it is over."""
    shifted = labels[:, 1:]
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), shifted.reshape(-1), ignore_index=-100, reduction="sum")
    return loss, int((shifted != -100).sum())


def key(name: str) -> str:
    return name.replace(".default", "")


def save_adapter(model: torch.nn.Module, folder: Path, base: str) -> None:
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / "adapter_config.json", config)


def make_llama(out: Path) -> None:
    for seed, (name, case) in enumerate(CASES.items()):
        folder = fresh(out / f"llama_{name}")
        model = tiny_llama(seed, case.get("theta", 10000.0), case.get("rope"), **case["config"])
        base = save_base(model, folder, case["dtype"], case.get("shard", "5GB"), case.get("classic", False))
        write_case(folder, seed, base, case["lora"])


def make_families(out: Path) -> None:
    for seed, (name, case) in enumerate(FAMILIES.items(), 20):
        folder = fresh(out / "families" / name)
        write_case(folder, seed, save_base(small_model(seed, case), folder, torch.float16), case["lora"])


def write_case(folder: Path, seed: int, base: PreTrainedModel, lora: dict) -> None:
    """An adapter over a base, a batch, and what transformers and PEFT compute with them."""
    batch = random_batch(np.random.default_rng(seed), [28, 13, 22], base.config.vocab_size)
    write_json(folder / "batch.json", batch)
    ids, labels, mask = tensors(batch)
    with torch.no_grad():
        base_logits = base(input_ids=ids, attention_mask=mask).logits
        total, count = sum_loss(base_logits, labels)
        base_loss = total / count
    torch.manual_seed(100 + seed)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM", **lora)).eval()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "magnitude" in n:  # of a base's rows' size, some larger, some smaller
                p.mul_(torch.empty_like(p).uniform_(0.7, 1.4))
            elif "lora_" in n:
                p.normal_(0.0, 0.15)
    save_adapter(model, folder / "adapter", folder.name)
    hidden: list[torch.Tensor] = []
    layers = model.base_model.model.model
    hooks = [m.register_forward_hook(lambda _m, _i, o: hidden.append(o[0] if isinstance(o, tuple) else o)) for m in [layers.embed_tokens, *layers.layers]]
    logits = model(input_ids=ids, attention_mask=mask).logits
    for hook in hooks:
        hook.remove()
    total, count = sum_loss(logits, labels)
    loss = total / count
    loss.backward()
    reference = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    assert torch.allclose(loss, reference, rtol=1e-6), (loss, reference)
    expected = {"logits": logits, "loss": loss, "base_loss": base_loss} | {f"hidden.{i}": h for i, h in enumerate(hidden)}
    expected |= {f"grad.{key(n)}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert all("lora_" in n for n in expected if n.startswith("grad.")) and (logits - base_logits).abs().max() > 0.1
    save_file({k: v.detach().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
    print(f"{folder.name}: loss {loss.item():.6f} over {count} tokens, {sum(k.startswith('grad.') for k in expected)} gradients")


def make_schedules(out: Path) -> None:
    table = []
    for warmup, total in [(0, 20), (5, 50), (10, 10), (3, 7)]:
        for name in ("linear", "cosine", "constant"):
            optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            schedule = {"linear": lambda: get_linear_schedule_with_warmup(optimizer, warmup, total),
                        "cosine": lambda: get_cosine_schedule_with_warmup(optimizer, warmup, total),
                        "constant": lambda: get_constant_schedule_with_warmup(optimizer, warmup)}[name]()
            factors = []
            for _ in range(total):
                factors.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                schedule.step()
            table.append({"lr_scheduler": name, "warmup_steps": warmup, "total_steps": total, "factors": factors})
    write_json(out / "schedules.json", table)
    print(f"schedules.json: {len(table)} schedules")


# ---------------------------------------------------------------- GGUF

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

STRINGS = [
    "", " ", "  ", "a", "Hello", "Hello, world!", " leading space", "trailing space ", "two  spaces", "three   spaces and    four", "\n", "\n\n", "a\nb", "a\n\nb\n",
    "\ttab\tand\ttab", " \n \t ", "I have a cough. What should I do?", "It's the doctor's; we're sure they'll say she'd've come, I'm told.", "IT'S UPPER CASE, CAN'T YOU SEE?",
    "don't Don't DON'T", "0", "7", "42", "2026", "1234567890", "3.14159", "1,000,000.50", "37.5°C", "10mg/kg", "v1.2.3-rc4", "x2y3z4", "50%", "$19.99",
    "def f(x: int) -> str:\n    return f\"{x!r}\"\n", "for (int i = 0; i < 10; ++i) { a[i] += b[i] * 2; }", "fn main() { println!(\"{}\", 1 << 3); }", "SELECT * FROM t WHERE a >= 5;",
    "https://example.org/path?x=1&y=2#z", "user@example.org", "C:\\temp\\file.txt", "snake_case camelCase PascalCase kebab-case", "<b>bold</b> &amp; <i>italic</i>",
    "{\"key\": [1, 2, 3], \"other\": null}", "...!!!???", "---===***", "(a)[b]{c}<d>", "naïve café, Ångström, coöperate", "Größe, Straße, Übermut", "¿Dónde está el baño?", "Привет, мир!",
    "你好,世界。", "日本語のテキストです", "한국어 문장입니다", "مرحبا بالعالم", "שלום עולם", "ไทย", "नमस्ते दुनिया", "🙂", "👩‍⚕️ said 👍🏽!", "e\u0301 vs \u00e9", "\u00a0non\u2003breaking\u200bspaces",
    "²³½ ① Ⅳ ٣", "x\u0000y", "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "a<|im_end|>b", "<|im_start|><|im_start|>", "<|im_sta", "<|im_end|> after", " <|im_end|>",
    "Willow Clinic, good day. I see, a cough.", "supercalifragilisticexpialidocious", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "The quick brown fox jumps over the lazy dog.\r\nNext line\r\n",
    "in  2026", "a   7", "x 1 22  333", "\n\n1",
]
CHATS = [
    [{"role": "user", "content": "I have a cough."}],
    [{"role": "system", "content": "You are a careful doctor."}, {"role": "user", "content": "My knee hurts."}],
    [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}, {"role": "user", "content": "It's \"itchy\" & red <here>.\n\nWhat now? 🙂"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  spaces around  "}, {"role": "assistant", "content": "Yes.\n"}],
]


def describe(tokenizer: PreTrainedTokenizerFast) -> dict:
    """Token ids and rendered chats of a tokenizer, for a test to compare."""
    return {
        "note": "ids: without added special tokens; special tokens in the text are recognised",
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "vocab_size": len(tokenizer),
        "strings": [{"text": s, "ids": tokenizer(s, add_special_tokens=False)["input_ids"]} for s in STRINGS],
        "decoded": [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)}
                    for ids in (tokenizer(s, add_special_tokens=False)["input_ids"] for s in STRINGS[16:20] + STRINGS[50:54])],
        "chats": [{"messages": c,
                   "text": tokenizer.apply_chat_template(c, tokenize=False),
                   "text_with_generation_prompt": tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True)} for c in CHATS],
    }


def smollm(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Splits as `tokenizer.ggml.pre` = smollm says (single digits first), which transformers' GGUF reader leaves out.

    It matters only before digits ("in  2026"): SmolLM2's own tokenizer.json and llama.cpp split so.
    """
    tokenizer.backend_tokenizer.pre_tokenizer = split()
    return tokenizer


def split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def make_tokenizers(out: Path, smollm2: Path) -> None:
    folder = out / "gguf"
    builtin = ROOT / "src/model/builtin/tiny-llama"
    if builtin.is_dir():
        write_json(folder / "tiny-llama.json", describe(AutoTokenizer.from_pretrained(builtin)))
    else:
        print(f"left out: no {builtin}")
    if smollm2.is_file():
        write_json(folder / "smollm2.json", describe(smollm(AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name))))
    else:
        print(f"smollm2.json left as it is: no {smollm2} (tests/tools/fetch_smollm2.sh fetches it)")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE tokenizer of 320 tokens, split as llama.cpp's `smollm` pre-tokenizer splits."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = split()
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train_from_iterator([m["content"] for c in CHATS for m in c] + STRINGS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE)


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of q and k (convert_hf_to_gguf: LlamaModel.permute)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


GGUF_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
              "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
              "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"}


def gguf_name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in fixed:
        return fixed[name]
    _, _, layer, module = name.split(".", 3)
    module, kind = module.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_NAMES[module]}.{kind}"


INTERLEAVED = ("llama", "smollm3")  # whose rows of q and k llama.cpp permutes
# bytes of a block of 256 numbers, where its scales (f16) lie, and how large the second is beside the first to centre the numbers
K_BLOCKS = {"Q2_K": (84, (80, 82), 1.5), "Q3_K": (110, (108,), 0), "Q4_K": (144, (0, 2), 7.5), "Q5_K": (176, (0, 2), 15.5), "Q6_K": (210, (208,), 0)}


def quantise(weight: np.ndarray, kind: gguf.GGMLQuantizationType, rng: np.random.Generator) -> np.ndarray:
    """Blocks of the kind: of the weight, or, as the gguf package cannot make K-quants, at random."""
    if kind.name not in K_BLOCKS:
        return gguf.quants.quantize(weight, kind)
    size, scales, centre = K_BLOCKS[kind.name]
    blocks = rng.integers(0, 256, (weight.size // 256, size), dtype=np.uint8)

    def put(scale: float) -> np.ndarray:
        for at, value in zip(scales, (scale, scale * centre)):
            blocks[:, at:at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)
        return gguf.quants.dequantize(blocks, kind)

    put(0.1 / put(1.0).std())
    return blocks.reshape(weight.shape[0], -1)


def write_gguf(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, kind: gguf.GGMLQuantizationType, embedding: gguf.GGMLQuantizationType) -> None:
    """Writes the model as llama.cpp's converter does, and puts the quantised weights back into it, dequantised."""
    config = model.config
    rope = config.rope_parameters
    architecture = "llama" if config.model_type == "mistral" else config.model_type
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotated = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny random {architecture}")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(rotated)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture == "phi3":
        writer.add_sliding_window(config.sliding_window or 0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_quantization_version(2)
    add_tokens(writer, tokenizer)
    if rope["rope_type"] == "llama3":
        freqs = rope["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
        low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
        factors = []
        for wave in 2 * np.pi / freqs:
            smooth = (old / wave - low) / (high - low)
            factors.append(1.0 if wave < old / high else rope["factor"] if wave > old / low else 1 / ((1 - smooth) / rope["factor"] + smooth))
        writer.add_tensor("rope_freqs.weight", np.array(factors, dtype=np.float32))
    if rope["rope_type"] == "longrope":
        old = config.original_max_position_embeddings
        writer.add_rope_scaling_orig_ctx_len(old)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(config.max_position_embeddings / old) / np.log(old))))
        writer.add_tensor("rope_factors_long.weight", np.array(rope["long_factor"], dtype=np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(rope["short_factor"], dtype=np.float32))
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    rng = np.random.default_rng(9)
    for name, p in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads if "k_proj" in name else 0
        heads = heads if architecture in INTERLEAVED else 0
        weight = p.numpy()
        if heads:
            weight = permute(weight, heads)
        type_ = gguf.GGMLQuantizationType.F32 if weight.ndim == 1 else embedding if "embed_tokens" in name or "lm_head" in name else kind
        if type_.name in K_BLOCKS and weight.shape[1] % 256:
            type_ = gguf.GGMLQuantizationType.Q8_0  # llama.cpp falls back, too
        if weight.ndim == 2 and weight.shape[1] % 32:
            type_ = gguf.GGMLQuantizationType.F16
        data = quantise(weight, type_, rng)
        writer.add_tensor(gguf_name(name), data, raw_dtype=type_)
        back = gguf.quants.dequantize(data, type_).reshape(weight.shape)
        p.copy_(torch.from_numpy((unpermute(back, heads) if heads else back).copy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokens(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda kv: kv[1])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([t for t, _ in vocab])
    writer.add_token_types([3 if t in SPECIALS else 1 for t, _ in vocab])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


@torch.no_grad()
def make_gguf(out: Path) -> None:
    folder = out / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    write_json(folder / "tiny-tokens.json", describe(tokenizer))
    types = gguf.GGMLQuantizationType
    llama3 = CASES["rope_llama3"]["rope"]

    def write(name: str, model: PreTrainedModel, kind: gguf.GGMLQuantizationType, embedding: gguf.GGMLQuantizationType, compare: bool) -> None:
        write_gguf(folder / f"{name}.gguf", model, tokenizer, kind, embedding)
        ids = torch.tensor(np.random.default_rng(50).integers(0, len(tokenizer), 24))
        logits = model(input_ids=ids[None]).logits[0]
        save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / f"{name}.safetensors")
        note = ""
        if compare:
            loaded = AutoModelForCausalLM.from_pretrained(folder, gguf_file=f"{name}.gguf", dtype=torch.float32, attn_implementation="eager").eval()
            error = ((loaded(input_ids=ids[None]).logits[0] - logits).abs().max() / logits.abs().max()).item()
            assert error < 1e-5, f"{name}: transformers reads it differently ({error:.2e})"
            note = f", transformers agrees to {error:.1e}"
        print(f"gguf/{name}.gguf: {(folder / f'{name}.gguf').stat().st_size:,} bytes{note}")

    for name, kind, embedding, changes in [
        ("tiny-f32", types.F32, types.F32, {}),
        ("tiny-f16", types.F16, types.F16, {}),
        ("tiny-bf16", types.BF16, types.BF16, {}),
        ("tiny-q8_0", types.Q8_0, types.Q8_0, {}),
        ("tiny-q4_0", types.Q4_0, types.Q8_0, {}),
        ("tiny-q4_1", types.Q4_1, types.Q4_1, {}),
        ("tiny-q5_0", types.Q5_0, types.Q5_0, {}),
        ("tiny-q5_1", types.Q5_1, types.Q5_1, {}),
        ("tiny-llama3-untied", types.Q8_0, types.F16, dict(rope=llama3, tie_word_embeddings=False)),
    ]:
        # transformers does not read rope_freqs
        write(name, tiny_llama(50, vocab_size=len(tokenizer), **changes), kind, embedding, compare="llama3" not in name)
    for name in K_BLOCKS:
        model = tiny_llama(51, vocab_size=len(tokenizer), hidden_size=256, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=16)
        write(f"k-{name.lower()}", model, types[name], types[name], compare=True)
    # transformers reads neither biases of LLaMA, head_dim of Qwen3, scaling, nor SmolLM3 from GGUF, and splits Phi-3's linears
    for name, compare in [("llama_bias", False), ("qwen2", True), ("qwen3", False), ("qwen3_yarn", False), ("phi3", False), ("phi3_longrope", False), ("smollm3", False)]:
        case = FAMILIES[name]
        changes = dict(no_rope_layer_interval=4, num_hidden_layers=5) if name == "smollm3" else {}
        write(f"family-{name}", small_model(60, case, vocab_size=len(tokenizer), **changes), types.Q8_0, types.F16, compare)


def tiny_sentencepiece() -> bytes:
    """A SentencePiece model made with the settings of LLaMA's."""
    import sentencepiece

    model = io.BytesIO()
    corpus = [m["content"] for c in CHATS for m in c] + [s.replace("\0", "") for s in STRINGS] + ["    indented    by      spaces"] * 4
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=model, model_type="bpe", vocab_size=640, byte_fallback=True, character_coverage=0.99,
        normalization_rule_name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        num_threads=1, minloglevel=2)
    return model.getvalue()


def make_ggml(out: Path) -> None:
    """LLaMA as GGML files hold it, and SentencePiece's tokens."""
    import sentencepiece

    from make_ggjt import F32 as G_F32, Q4_0 as G_Q4_0, token_bytes, write
    folder = fresh(out / "ggml")
    processor = sentencepiece.SentencePieceProcessor(model_proto=tiny_sentencepiece())
    pieces = range(processor.vocab_size())
    kind = lambda i: 2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 6 if processor.is_byte(i) else 1
    vocabulary = [(token_bytes(processor.id_to_piece(i), kind(i) == 2, kind(i) == 3, kind(i) == 6), processor.get_score(i)) for i in pieces]
    strings = [s for s in STRINGS if "<|" not in s and "\0" not in s] + ["    indented    by      spaces", "a\u2581b", "x" * 300 + " " * 40 + "y"]

    def pieces_of(text: str) -> list[int]:
        """A special token ends a piece of text; each piece is a text of its own."""
        ids: list[int] = []
        while text:
            at, special = min(((text.find(s), s) for s in ("<s>", "</s>", "<unk>") if s in text), default=(len(text), ""))
            ids += processor.encode(text[:at]) + ([processor.piece_to_id(special)] if special else [])
            text = text[at + len(special):]
        return ids

    mixed = ["<s>[INST] Hello [/INST] Good day. </s><s>[INST] And now?", "<s>", "</s> after", "a<unk>b"]
    decoded = [processor.encode(s) for s in strings]
    write_json(folder / "tokens.json", {
        "bos_token_id": 1, "eos_token_id": 2, "vocab_size": processor.vocab_size(),
        "strings": [{"text": s, "ids": processor.encode(s)} for s in strings] + [{"text": s, "ids": pieces_of(s)} for s in mixed],
        "decoded": [{"ids": ids, "text": processor.decode(ids)} for ids in decoded],
    })
    writer = gguf.GGUFWriter(folder / "llama-tokens.gguf", "llama")
    with torch.no_grad():
        model = tiny_llama(70, vocab_size=processor.vocab_size(), hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
                           max_position_embeddings=4096)
        config = model.config
        for key, value in [("context_length", 4096), ("embedding_length", 32), ("block_count", 2), ("feed_forward_length", 64), ("attention.head_count", 4), ("attention.head_count_kv", 2)]:
            writer.add_uint32(f"llama.{key}", value)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model("llama")
        writer.add_token_list([processor.id_to_piece(i) for i in pieces])
        writer.add_token_scores([processor.get_score(i) for i in pieces])
        writer.add_token_types([kind(i) for i in pieces])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_chat_template(TEMPLATE)
        names = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
                 "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2", "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm",
                 "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output"}
        tensors = {}
        for name, p in model.state_dict().items():
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads if "k_proj" in name else 0
            weight = permute(p.numpy(), heads) if heads else p.numpy()
            type_ = gguf.GGMLQuantizationType.F32 if weight.ndim == 1 else gguf.GGMLQuantizationType.Q4_0
            data = gguf.quants.quantize(weight, type_)
            back = gguf.quants.dequantize(data, type_)
            p.copy_(torch.from_numpy((unpermute(back, heads) if heads else back).copy()))
            writer.add_tensor(gguf_name(name), data, raw_dtype=type_)
            module = name.removesuffix(".weight")
            layer = module.removeprefix("model.layers.").split(".")[0] if module.startswith("model.layers.") else ""
            short = f"layers.{layer}.{names[module.split('.', 3)[3]]}" if layer else names[module]
            tensors[f"{short}.weight"] = (weight.shape, G_F32 if weight.ndim == 1 else G_Q4_0, iter([data.tobytes()]))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write(folder / "tiny.ggmlv3.bin", vocabulary, config.num_attention_heads, config.num_hidden_layers, tensors)
        ids = torch.tensor(np.random.default_rng(70).integers(0, processor.vocab_size(), 24))
        save_file({"input_ids": ids, "logits": model(input_ids=ids[None]).logits[0].contiguous()}, folder / "tiny.safetensors")
    for file in sorted(folder.iterdir()):
        print(f"ggml/{file.name}: {file.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "tests/fixtures")
    parser.add_argument("--only", choices=["llama", "families", "schedules", "gguf", "ggml", "tokenizers"])
    parser.add_argument("--smollm2", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    makers = {"llama": make_llama, "families": make_families, "schedules": make_schedules, "gguf": make_gguf, "ggml": make_ggml, "tokenizers": lambda out: make_tokenizers(out, args.smollm2)}
    for name, make in makers.items():
        if args.only in (None, name):
            make(args.output)


if __name__ == "__main__":
    main()
