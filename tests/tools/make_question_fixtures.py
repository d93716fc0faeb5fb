"""What transformers' CLIP answers to the questions of the images' report: tests/fixtures/vision/questions.json.

Needs torch and transformers, and the tiny random CLIP of make_vision_fixtures.py. An answer's vector is the mean of
its sentences' unit vectors, at length 1 (Radford et al., 2021, section 3.1.4); its share is the softmax over the
question's answers. Run again whenever src/data/images/questions.txt changes.
"""

import json
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

ROOT = Path(__file__).resolve().parents[2]
VISION = ROOT / "tests/fixtures/vision"


def questions() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for line in (ROOT / "src/data/images/questions.txt").read_text().splitlines():
        if line.startswith("["):
            current = found.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, sentences = line.split(": ", 1)
            current[name] = sentences.split(" | ")
    return found


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def main() -> None:
    torch.set_num_threads(1)
    model = CLIPModel.from_pretrained(VISION / "clip").eval()
    tokenizer = CLIPTokenizerFast(tokenizer_file=str(VISION / "clip/tokenizer.json"), bos_token="<|startoftext|>",
                                  eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    pictures = [Image.open(path) for path in sorted((VISION / "pictures").glob("*.png"))]
    pixels = CLIPImageProcessorPil.from_pretrained(VISION / "clip")(pictures, return_tensors="pt")["pixel_values"]
    limit = model.config.text_config.max_position_embeddings
    answers = {}
    with torch.no_grad():
        images = unit(model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output))
        scale = model.logit_scale.exp()
        for question, of_question in questions().items():
            vectors = []
            for sentences in of_question.values():
                rows = []
                for sentence in sentences:
                    ids = tokenizer(sentence, truncation=True, max_length=limit)["input_ids"]
                    rows.append(model.text_projection(model.text_model(input_ids=torch.tensor([ids])).pooler_output)[0])
                vectors.append(unit(unit(torch.stack(rows)).sum(0)))
            shares = torch.softmax(scale * images @ torch.stack(vectors).T, dim=-1)
            answers[question] = {"answers": list(of_question), "shares": shares.tolist()}
    (VISION / "questions.json").write_text(json.dumps(answers, indent=1) + "\n")
    for question, of_question in answers.items():
        print(question, [[round(share, 3) for share in row] for row in of_question["shares"]])


if __name__ == "__main__":
    main()
