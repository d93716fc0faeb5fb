"""Writes tests/fixtures/vision: tiny random BLIP and CLIP models in the real ones' format (tokenizers
too), pictures, and what transformers makes of them.

    python tests/tools/make_vision_fixtures.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
)

FOLDER = Path(__file__).parents[1] / "fixtures" / "vision"
TEXTS = [
    "a photograph of a cat on a mat", "two dogs run along the beach", "an oil painting of a small red house",
    "the woman with long hair wears a hat", "a bowl of fruit, on the table", "a street at night; neon lights!",
]
# Pillow resized rows first until 13, which takes columns first where that is cheaper, and then rounds
# some bytes differently by one. These are sizes where the rows come first in either.
SIZES = [(61, 40), (97, 31), (17, 30), (33, 20), (20, 26)]


def pictures() -> list[Image.Image]:
    """Smooth colours with a few hard edges, of several shapes."""
    random = np.random.default_rng(7)
    made = []
    for width, height in SIZES:
        y, x = np.mgrid[0:height, 0:width]
        planes = [127 + 120 * np.sin(x / random.uniform(3, 17) + y / random.uniform(3, 17)) for _ in range(3)]
        pixels = np.stack(planes, -1)
        left, top = width // 4, height // 3
        pixels[top : top + height // 3, left : left + width // 3] = random.integers(0, 256, 3)
        made.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return made


def bert_tokenizer() -> Tokenizer:
    """WordPiece with BERT's normaliser and special tokens; BLIP adds [DEC] and [ENC]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False))
    ids = {token: tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokenizer.add_special_tokens(["[DEC]", "[ENC]"])
    return tokenizer


def clip_tokenizer() -> Tokenizer:
    """CLIP's byte-level BPE: lower case, words that end with </w>, the special tokens at the vocabulary's end
    (a text's end is found by its id, the highest)."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(__import__("tokenizers").Regex(r"\s+"), " "), normalizers.Lowercase()])
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(__import__("tokenizers").Regex(pattern), behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary = {**trained["vocab"], **{token: len(trained["vocab"]) + i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>"])}}
    tokenizer.model = models.BPE(vocab=vocabulary, merges=[tuple(merge) for merge in trained["merges"]], unk_token="<|endoftext|>",
                                 end_of_word_suffix="</w>", continuing_subword_prefix="")
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    ids = {token: tokenizer.token_to_id(token) for token in ("<|startoftext|>", "<|endoftext|>")}
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", ids["<|endoftext|>"]), ("<|startoftext|>", ids["<|startoftext|>"]), trim_offsets=False, add_prefix_space=False)
    return tokenizer


def restless(model: torch.nn.Module, seed: int) -> None:
    """Numbers large enough that captions differ, and norms and biases that are no zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 0:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise * (1.4 / parameter[0].numel() ** 0.5 if "embedding" not in name else 0.6))


def blip(images: list[Image.Image]) -> None:
    folder = FOLDER / "blip"
    folder.mkdir()
    tokenizer = bert_tokenizer()
    size = tokenizer.get_vocab_size()
    config = BlipConfig(
        text_config=dict(vocab_size=size, hidden_size=32, encoder_hidden_size=48, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=48, bos_token_id=tokenizer.token_to_id("[DEC]"),
                         eos_token_id=2, sep_token_id=tokenizer.token_to_id("[SEP]"), pad_token_id=0, layer_norm_eps=1e-12),
        vision_config=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8))
    model = BlipForConditionalGeneration(config).eval()
    restless(model, 3)
    model.tie_weights()
    # What ends a caption comes now and then.
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[config.text_config.sep_token_id] += 3.5
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    values = processor(images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model.vision_model(values)[0]
        first = model.text_decoder(input_ids=torch.full((len(images), 1), config.text_config.bos_token_id),
                                   encoder_hidden_states=states).logits[:, -1]
    save_file({"pixel_values": values.contiguous(), "states": states.contiguous(), "logits": first.contiguous()}, FOLDER / "blip.safetensors")
    searches = []
    for options in [
        {},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 6},
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 2.0},
        {"num_beams": 4, "length_penalty": -1.0, "early_stopping": True},
        {"num_beams": 5, "early_stopping": "never", "length_penalty": 0.5},
        {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "min_new_tokens": 4},
        {"num_beams": 3, "begin": "a photograph of"},
        {"num_beams": 2, "max_new_tokens": 3},
    ]:
        options = {"max_new_tokens": 14, **options}
        begin = options.pop("begin", None)
        arguments = dict(options)
        if begin:
            ids = tokenizer.encode(begin).ids
            arguments["input_ids"] = torch.tensor([ids] * len(images))
            arguments["attention_mask"] = torch.ones_like(arguments["input_ids"])
        with torch.no_grad():
            out = model.generate(pixel_values=values, do_sample=False, **arguments)
        captions = []
        for row in out.tolist():
            row = row[1:]
            row = row[: row.index(config.text_config.sep_token_id)] if config.text_config.sep_token_id in row else row
            captions.append({"ids": row, "text": tokenizer.decode(row, skip_special_tokens=True)})
        searches.append({"options": options, "begin": begin, "captions": captions})
    (FOLDER / "blip.json").write_text(json.dumps(searches, indent=1) + "\n")


def clip(images: list[Image.Image]) -> None:
    folder = FOLDER / "clip"
    folder.mkdir()
    tokenizer = clip_tokenizer()
    begin, end = (tokenizer.token_to_id(token) for token in ("<|startoftext|>", "<|endoftext|>"))
    config = CLIPConfig(
        text_config=dict(vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, max_position_embeddings=24, bos_token_id=begin, eos_token_id=end, pad_token_id=end),
        vision_config=dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=3, image_size=28, patch_size=7),
        projection_dim=40)
    model = CLIPModel(config).eval()
    restless(model, 5)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}) + "\n")
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor.save_pretrained(folder)
    values = processor(images, return_tensors="pt")["pixel_values"]
    texts = TEXTS + ["A  Cat", "the   MAT,"]
    ids = [tokenizer.encode(text).ids for text in texts]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [end] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
    with torch.no_grad():
        out = model(input_ids=padded, attention_mask=mask, pixel_values=values)
    scale = model.logit_scale.exp().item()
    (FOLDER / "clip.json").write_text(json.dumps({
        "texts": texts, "scale": scale, "similarities": (out.logits_per_image / scale).tolist()}) + "\n")
    save_file({"pixel_values": values.contiguous(), "image_embeds": out.image_embeds.contiguous(),
               "text_embeds": out.text_embeds.contiguous()}, FOLDER / "clip.safetensors")


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    (FOLDER / "pictures").mkdir(parents=True)
    images = pictures()
    for index, image in enumerate(images):
        image.save(FOLDER / "pictures" / f"{index}.png")
    blip(images)
    clip(images)
    # The pictures as Pillow resizes them, rows first, for the filter alone.
    sizes = [(32, 32), (100, 17), (61, 80)]
    rows_first = lambda image, w, h: image.resize((w, image.height), Image.BICUBIC).resize((w, h), Image.BICUBIC)  # noqa: E731
    resized = {f"{i}_{w}x{h}": torch.from_numpy(np.array(rows_first(image, w, h)))
               for i, image in enumerate(images) for w, h in sizes}
    save_file({name: tensor.contiguous() for name, tensor in resized.items()}, FOLDER / "pillow.safetensors")
    print(len(load_file(FOLDER / "pillow.safetensors")), "pictures resized")


if __name__ == "__main__":
    main()
