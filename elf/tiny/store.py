"""Stores weights in half precision while the model still loads in float32."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_half(model: Any, folder: str | Path) -> None:
    """Save a diffusers or transformers model as float16 that loads as float32.

    transformers loads a model in the type that its config names, and a CPU is slow in
    float16: the config therefore says float32. The model itself is left as it was.
    """
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.half().save_pretrained(folder)
    model.float().load_state_dict(kept)
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    _name_float32(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _name_float32(config: dict[str, Any]) -> None:
    for key, value in config.items():
        if isinstance(value, dict):
            _name_float32(value)
        elif key in ("dtype", "torch_dtype") and value is not None:
            config[key] = "float32"


def count_parameters(model: nn.Module) -> int:
    """The number of weights of a model."""
    return sum(parameter.numel() for parameter in model.parameters())


def seeded(seed: int) -> Any:
    """A context in which torch's random numbers start at `seed` and are restored afterwards."""
    fork = torch.random.fork_rng(devices=[])

    class Seeded:
        def __enter__(self) -> None:
            fork.__enter__()
            torch.manual_seed(seed)

        def __exit__(self, *error: Any) -> None:
            fork.__exit__(*error)

    return Seeded()
