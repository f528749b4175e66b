"""What a run ran on, for who repeats it: versions, hardware, and the code's commit."""

import contextlib
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import elf
from elf.nvidia import loaded_version

LIBRARIES = (
    "torch", "lightning", "diffusers", "transformers", "peft", "accelerate", "safetensors",
    "numpy", "pillow", "bitsandbytes", "triton", "wandb", "tensorboard",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Return it as plain values, without a name of the machine or its user."""
    return {
        "elf": elf.__version__,
        "commit": commit(Path(elf.__file__).parent.parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": versions(LIBRARIES),
        "cuda": torch.version.cuda,
        "cudnn": _cudnn(),
        "driver": loaded_version(),
        "gpus": _gpus(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the versions of those libraries that are installed."""
    found = {}
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def commit(checkout: Path) -> str | None:
    """Return a checkout's commit, with ``+`` if files of it were changed; None without git."""
    if not (checkout / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments],
            capture_output=True, text=True, encoding="utf-8", errors="replace",
            timeout=10, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    with contextlib.suppress(OSError, subprocess.SubprocessError):
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "elf")
        return git("rev-parse", "HEAD") + "+" * bool(changed)
    return None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return what differs between flat values, as ``{"libraries.torch": [before, now]}``."""
    return {
        key: [before.get(key), now.get(key)]
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }


def _cudnn() -> int | None:
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    found = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [
        {
            "name": each.name,
            "memory_gib": round(each.total_memory / (1 << 30), 1),
            "capability": f"{each.major}.{each.minor}",
        }
        for each in found
    ]
