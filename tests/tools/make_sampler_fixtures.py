"""Writes tests/fixtures/samplers.json: every step of diffusers' schedulers on fixed outputs of a model.

    python tests/tools/make_sampler_fixtures.py

For DDIM, DPM++ 2M and Euler a, for models that predict noise and v, at few and many steps: the timesteps, the latent's
first noise, what the model is given, its output and the noise that Euler a adds at each step, and the last latent.
"""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from diffusers.schedulers import scheduling_euler_ancestral_discrete as euler

SIZE = 6
BETAS = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KINDS = {
    "ddim": lambda prediction: DDIMScheduler(**BETAS, prediction_type=prediction, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "dpm++_2m": lambda prediction: DPMSolverMultistepScheduler(**BETAS, prediction_type=prediction, algorithm_type="dpmsolver++", solver_order=2),
    "euler_a": lambda prediction: EulerAncestralDiscreteScheduler(**BETAS, prediction_type=prediction, timestep_spacing="linspace"),
}


def numbers(tensor: torch.Tensor) -> list[float]:
    return tensor.flatten().tolist()


def run(kind: str, prediction: str, steps: int, generator: torch.Generator) -> dict:
    scheduler = KINDS[kind](prediction)
    scheduler.set_timesteps(steps)
    noise = torch.randn(SIZE, generator=generator)
    x = noise * scheduler.init_noise_sigma
    trace = []
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t)
        # Like a model's: of about unit variance, and a function of what it is given.
        output = 0.6 * torch.sin(3.0 * given) + 0.5 * torch.randn(SIZE, generator=generator)
        added = torch.randn(SIZE, generator=generator)
        with mock.patch.object(euler, "randn_tensor", lambda *_, **__: added):
            x = scheduler.step(output, t, x).prev_sample
        trace.append({"timestep": float(t), "input": numbers(given), "output": numbers(output), "added": numbers(added)})
    return {"sampler": kind, "prediction": prediction, "steps": steps, "noise": numbers(noise), "trace": trace, "latent": numbers(x)}


def main() -> None:
    generator = torch.Generator().manual_seed(3)
    cases = [run(kind, prediction, steps, generator) for kind in KINDS for prediction in ("epsilon", "v_prediction") for steps in (3, 7, 20)]
    scheduler = KINDS["ddim"]("epsilon")
    levels = {"alpha_bar": {str(t): float(scheduler.alphas_cumprod[t]) for t in (0, 1, 250, 500, 999)}}
    path = Path("tests/fixtures/samplers.json")
    path.write_text(json.dumps({**levels, "cases": cases}) + "\n")
    print(f"{len(cases)} cases in {path}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
