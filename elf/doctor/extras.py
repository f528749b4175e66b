"""What Elf does without: bitsandbytes, GGUF files, the page; each is tried if it is there."""

import importlib
import importlib.util
import os

from elf.doctor.finding import Finding, broken, first_line, good, note
from elf.doctor.installed import installed_version
from elf.doctor.needs import Needs

LIBRARIES = {
    "bitsandbytes": ("8bit", "8-bit optimizers and nf4 bases"),
    "gguf": ("gguf", "language models in .gguf files"),
    "gradio": ("serve", "the page of `elf serve`"),
}
"""What they are imported as, the extra that brings them, and what they are for."""


def check(needs: Needs) -> list[Finding]:
    """Quantise a vector by bitsandbytes, and import the others."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    wanted = {"bitsandbytes": needs.bitsandbytes or ""}
    if str(needs.base).endswith(".gguf"):
        wanted["gguf"] = f"model.base {needs.base}"
    return [_check(name, wanted.get(name, "")) for name in LIBRARIES]


def _check(name: str, wanted: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return judge(name, None, "", wanted)
    try:
        _quantise() if name == "bitsandbytes" else importlib.import_module(name)
    except Exception as error:  # whatever an import raises
        return judge(name, installed_version(name), first_line(error), wanted)
    return judge(name, installed_version(name), "", wanted)


def judge(name: str, version: str | None, reason: str, wanted: str) -> Finding:
    """Say whether an optional library works.

    Args:
        name: What it is imported as.
        version: Its; None if it is not installed.
        reason: What was said if it fails.
        wanted: The config's key and value that need it; empty if none does.
    """
    extra, use = LIBRARIES[name]
    facts = {"version": version, "extra": extra}
    if version is None:
        do = f"pip install 'elf[{extra}]'"
        if wanted:
            said = f"not installed; the config has {wanted}, which needs it"
            return broken(name, said, do, **facts)
        return note(name, f"not installed; only for {use}", do, **facts)
    if reason:
        do = f"pip install --upgrade --force-reinstall --no-deps {name}"
        return broken(name, f"{version} does not work: {reason}", do, **facts)
    return good(name, f"{version}, for {use}", **facts)


def _quantise() -> None:
    import torch
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    device = "cuda" if torch.cuda.is_available() else "cpu"
    values = torch.linspace(-1, 1, 64, device=device)
    codes, state = quantize_4bit(values, quant_type="nf4")
    error = (dequantize_4bit(codes, state) - values).abs().max().item()
    if not error < 0.2:  # the widest gap between two of nf4's values is 0.3
        raise RuntimeError(f"a vector in nf4 is off by {error:g}")
