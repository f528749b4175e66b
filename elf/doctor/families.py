"""The families of checks: each runs in a process of its own."""

from typing import NamedTuple


class Family(NamedTuple):
    """Checks that are made together.

    Attributes:
        module: Whose ``check`` makes them.
        checks: The names of the lines that they give, in order.
        with_config: Those that only a config gives.
        try_it: What shows more where the process itself fails.
        seconds: That they may take, counted from the start of all.
        passing: Whether their silence is a note only: what is asked is out of this machine's hands.
    """

    module: str
    checks: tuple[str, ...]
    with_config: tuple[str, ...] = ()
    try_it: str = ""
    seconds: float = 180
    passing: bool = False


FAMILIES = {
    "installed": Family("elf.doctor.installed", ("python", "packages"), try_it="pip check"),
    "processors": Family(
        "elf.doctor.processors", ("torch", "gpu", "kernels"), try_it='python -c "import torch"'
    ),
    "onnxruntime": Family(
        "elf.doctor.onnxsession", ("onnxruntime",), try_it='python -c "import onnxruntime"'
    ),
    "extras": Family(
        "elf.doctor.extras",
        ("bitsandbytes", "gguf", "gradio"),
        try_it='python -c "import bitsandbytes, gguf, gradio"',
    ),
    "fiftyone": Family(
        "elf.doctor.reviewing",
        ("fiftyone",),
        try_it='python -c "import fiftyone; fiftyone.list_datasets()"',
    ),
    "storage": Family(
        "elf.doctor.storage",
        ("disk.runs", "disk.temporary", "disk.downloads", "shared_memory"),
        try_it="df",
    ),
    "weights": Family(
        "elf.doctor.weights", ("models",), ("config.models", "config.data"), try_it="elf quickstart"
    ),
    "hub": Family(
        "elf.doctor.hub", ("hub",), try_it="hf download gpt2 config.json", seconds=60, passing=True
    ),
    "wandb": Family(
        "elf.doctor.dashboard", ("wandb",), try_it="wandb status", seconds=60, passing=True
    ),
}
