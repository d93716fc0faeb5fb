"""Pre-trains the tiny base that is compiled into loradeck (`base_model: builtin:tiny-llama`).

    python tests/tools/make_corpus.py --corpus corpus.jsonl
    python tests/tools/pretrain_tiny_llama.py --corpus corpus.jsonl --output src/model/builtin/tiny-llama

Trains a byte-level BPE tokenizer and a LlamaForCausalLM of 1.4 M parameters on the corpus of
make_corpus.py, on the CPU (10 to 25 minutes on 2 cores, by how busy they are), and writes a Hugging Face folder with
f16 weights. Seeded: running it again gives an equivalent base.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROMPTS = ["I have a cough. What should I do?", "What does a cow eat?", "My mother has a fever. What can we do?", "Tell me a story about a dog.",
           "Tom bought cheese and plums. What did Tom buy?", "Hello, how are you?", "Who is the baker?"]


def render(record: dict) -> str:
    """The text that the model sees; a dialogue is written as the chat template writes it."""
    if "text" in record:
        return record["text"]
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in record["messages"])


def train_tokenizer(texts: list[str], size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def rows(documents: list[list[int]], length: int, rng: random.Random) -> list[list[int]]:
    """Whole documents packed into rows; each row starts with a document's start."""
    order = list(range(len(documents)))
    rng.shuffle(order)
    out: list[list[int]] = []
    row: list[int] = []
    for i in order:
        row = row + documents[i]
        if len(row) >= length:
            out.append(row[:length])
            row = []
    rng.shuffle(out)
    return out


def loss_of(model: torch.nn.Module, batch: list[list[int]]) -> torch.Tensor:
    ids = torch.tensor(batch)
    logits = model(input_ids=ids[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), ids[:, 1:].reshape(-1))


@torch.no_grad()
def evaluate(model: torch.nn.Module, held: list[list[int]]) -> float:
    model.eval()
    losses = [loss_of(model, held[i:i + 16]).item() for i in range(0, len(held), 16)]
    model.train()
    return sum(losses) / len(losses)


def write_folder(out: Path, tokenizer: Tokenizer, config: LlamaConfig, model: LlamaForCausalLM) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    decoder = {str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
               for i, s in enumerate(SPECIALS)}
    write_json(out / "tokenizer_config.json", {
        "add_prefix_space": False, "added_tokens_decoder": decoder, "bos_token": "<|endoftext|>", "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "model_max_length": config.max_position_embeddings,
        "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None})
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
        "head_dim": config.head_dim, "hidden_act": "silu", "hidden_size": config.hidden_size, "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size, "max_position_embeddings": config.max_position_embeddings, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": config.num_attention_heads, "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads, "rms_norm_eps": config.rms_norm_eps, "rope_scaling": None,
        "rope_theta": 10000.0, "tie_word_embeddings": True, "torch_dtype": "float16", "use_cache": True, "vocab_size": config.vocab_size})
    write_json(out / "generation_config.json", {"bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0})
    tensors = {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def show(folder: Path) -> None:
    """Greedy answers of the written folder, as anyone would load it."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=100, do_sample=False)
        print(f"> {prompt}\n  {tokenizer.decode(out[0, ids['input_ids'].shape[1]:], skip_special_tokens=True).strip()}", flush=True)
    for start in ["One day, Anna", "In the winter,"]:
        torch.manual_seed(0)
        out = model.generate(**tokenizer(start, return_tensors="pt"), max_new_tokens=110, do_sample=True, temperature=0.8)
        print(f"* {tokenizer.decode(out[0], skip_special_tokens=True)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--lr", type=float, default=0.02, help="Muon's, for the matrices")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rng = random.Random(0)
    texts = [render(json.loads(line)) for line in args.corpus.read_text(encoding="utf-8").splitlines()]
    tokenizer = train_tokenizer(texts, args.vocab)
    documents = [e.ids + [0] for e in tokenizer.encode_batch(texts)]
    held, documents = documents[:600], documents[600:]
    held_rows = rows(held, 257, random.Random(1))
    print(f"{len(texts)} texts, {sum(map(len, documents)):,} tokens, vocabulary {tokenizer.get_vocab_size()}, {len(held_rows)} held-out rows", flush=True)

    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=384, num_hidden_layers=6,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=512, rms_norm_eps=1e-5,
                         tie_word_embeddings=True, bos_token_id=0, eos_token_id=2, pad_token_id=0)
    model = LlamaForCausalLM(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05), torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)]
    peaks = [args.lr, 4e-3]

    queues: dict[int, list[list[int]]] = {256: [], 512: []}
    started = time.time()
    average = 0.0
    for step in range(args.steps):
        # Every fourth batch is long, so that all positions of the context get trained.
        length = 512 if step % 4 == 3 else 256
        if len(queues[length]) < args.tokens // length:
            queues[length] += rows(documents, length + 1, rng)
        batch = [queues[length].pop() for _ in range(args.tokens // length)]
        progress = step / args.steps
        scale = min(1.0, (step + 1) / 30) * (1.0 if progress < 0.4 else 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.4) / 0.6)))
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = peak * scale
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average = loss.item() if step == 0 else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0 or step + 1 == args.steps:
            print(f"step {step} loss {average:.4f} {time.time() - started:.0f} s", flush=True)
        if step % 300 == 299 or step + 1 == args.steps:
            print(f"step {step} held-out loss {evaluate(model, held_rows):.4f}", flush=True)
            write_folder(args.output, tokenizer, config, model)
            show(args.output)
    rounded = AutoModelForCausalLM.from_pretrained(args.output, dtype=torch.float32)
    size = sum(f.stat().st_size for f in args.output.iterdir())
    print(f"held-out loss in f32 {evaluate(model, held_rows):.4f}, rounded to f16 {evaluate(rounded, held_rows):.4f}; {size:,} bytes in all")


if __name__ == "__main__":
    main()
