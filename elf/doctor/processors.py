"""Torch, the GPUs that it can really use, and whether kernels can be compiled for them."""

import contextlib
import importlib.util
import os
import shutil
import warnings
from collections.abc import Mapping
from typing import Any

from elf.doctor.finding import Finding, broken, first_line, good, note
from elf.doctor.needs import Needs
from elf.memory import GIB
from elf.nvidia import OLDEST, Driver, ask_driver
from elf.platforms import triton_package, unset

FREE = 0.75
"""Share of a card's memory; where less is free, other programs hold a lot."""
CHOOSE = "take the command for your system from https://pytorch.org/get-started"


def check(needs: Needs) -> list[Finding]:
    """Multiply on the CPU and on each GPU."""
    import torch

    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "threads": torch.get_num_threads(),
    }
    ones = torch.ones(16, 16)
    right = bool((ones @ ones == 16).all())
    found = [judge_torch(facts, right)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    reason = first_line(str(caught[-1].message)) if caught else ""
    gpus = [_try_gpu(index) for index in range(torch.cuda.device_count())] if available else []
    mps = torch.backends.mps.is_available()
    driver = ask_driver()
    gpu = judge_gpus(gpus, facts, driver, reason, needs, os.environ, mps)
    found += [gpu, judge_kernels(*_try_kernels())] if gpus and gpu.state != "broken" else [
        gpu, good("kernels", "not needed without a GPU")
    ]  # fmt: skip
    return found


def judge_torch(facts: Mapping[str, Any], right: bool) -> Finding:
    """Say whether torch works on a CPU."""
    built = f"CUDA {facts['cuda']}" if facts["cuda"] else "no CUDA"
    built = f"ROCm {facts['hip']}" if facts["hip"] else built
    said = f"{facts['version']}, built for {built}, {facts['threads']} threads"
    if not right:
        again = "pip install --force-reinstall torch torchvision"
        return broken("torch", f"{said}; a product of matrices came out wrong", again, **facts)
    return good("torch", said, **facts)


def judge_gpus(
    gpus: list[dict[str, Any]],
    torch: Mapping[str, Any],
    driver: Driver,
    reason: str,
    needs: Needs,
    environment: Mapping[str, str],
    mps: bool = False,
) -> Finding:
    """Say whether torch can use the GPUs that there are.

    Args:
        gpus: Each as `_try_gpu` found it.
        torch: Its version, and what it was built for.
        driver: What NVIDIA's says.
        reason: What torch said when it looked for them.
        needs: What a config needs.
        environment: Of the process.
        mps: Whether there is a GPU of Apple's.
    """
    facts = {"gpus": gpus, "driver": driver.version}
    if gpus:
        return _judge_found(gpus, needs, facts)
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and not hidden.replace("-1", "").strip():
        said, do = f"hidden by CUDA_VISIBLE_DEVICES={hidden!r}", unset("CUDA_VISIBLE_DEVICES")
    elif driver.error and driver.version is None:
        said = f"the driver does not work: {first_line(driver.error)}"
        return broken("gpu", said, "start the machine anew, or install the driver again", **facts)
    elif driver.there and not (torch["cuda"] or torch["hip"]):
        said = f"there (driver {driver.version}), and this torch was built without CUDA"
        return broken("gpu", said, CHOOSE, **facts)
    elif driver.there:
        return _judge_driver(torch, driver, reason, facts)
    elif mps:
        said = "Apple's, on which nothing of Elf has been tried"
        do = "nothing for `elf quickstart`, which a CPU does in minutes"
    else:
        said = "none"
        do = "nothing for `elf quickstart`; Stable Diffusion takes an NVIDIA card of 8 GB or more"
    if needs.gpu:
        way = "a machine with a GPU, or --trainer.accelerator cpu --trainer.precision 32-true"
        return broken("gpu", f"{said}; the config has {needs.gpu}, which needs one", way, **facts)
    return note("gpu", said, do, **facts)


def _judge_found(gpus: list[dict[str, Any]], needs: Needs, facts: dict[str, Any]) -> Finding:
    said = "; ".join(
        f"{gpu['name']}, {gpu['memory_gib']:g} GiB, {gpu['free_gib']:g} free" for gpu in gpus
    )
    said += f"; driver {facts['driver']}" * bool(facts["driver"])
    for gpu in gpus:
        if not gpu["error"]:
            continue
        old = "no kernel image" in gpu["error"]
        do = f"for compute capability {gpu['capability']}: {CHOOSE}" if old else (
            "start the machine anew; if it stays so, install the driver again"
        )  # fmt: skip
        return broken("gpu", f"{gpu['name']}: a product on it fails ({gpu['error']})", do, **facts)
    if needs.devices > len(gpus):
        do = f"--trainer.devices {len(gpus)}"
        return broken("gpu", f"{said}; trainer.devices asks for {needs.devices}", do, **facts)
    old_cards = [gpu["name"] for gpu in gpus if float(gpu["capability"]) < 8]
    if needs.bf16 and old_cards:
        said = f"{said}; trainer.precision is bf16, which {old_cards[0]} only imitates, slowly"
        return note("gpu", said, "--trainer.precision 16-mixed", **facts)
    if any(gpu["free_gib"] < FREE * gpu["memory_gib"] for gpu in gpus):
        return note(
            "gpu", f"{said}; other programs hold the rest", "close what `nvidia-smi` lists", **facts
        )
    return good("gpu", said, **facts)


def _judge_driver(
    torch: Mapping[str, Any], driver: Driver, reason: str, facts: dict[str, Any]
) -> Finding:
    said = f"there (driver {driver.version}), and torch cannot use it"
    oldest = OLDEST.get(int(str(torch["cuda"] or 0).split(".")[0]))
    number = str(driver.version).split(".")[0]
    if oldest and number.isdigit() and int(number) < oldest:
        said = f"there, and its driver {driver.version} is too old for torch's CUDA {torch['cuda']}"
        do = f"install NVIDIA's driver {oldest} or newer, or a torch for an older CUDA: {CHOOSE}"
        return broken("gpu", said, do, **facts)
    said += f" ({reason})" * bool(reason)
    do = "start the machine anew; in a container, give it the GPU (docker run --gpus all)"
    return broken("gpu", said, do, **facts)


def _try_gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    found = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / GIB, 1),
        "free_gib": 0.0,
        "error": "",
    }
    try:
        found["free_gib"] = round(torch.cuda.mem_get_info(index)[0] / GIB, 1)
        ones = torch.ones(256, 256, device=f"cuda:{index}")
        if not bool((ones @ ones == 256).all()):
            found["error"] = "a wrong result"
    except RuntimeError as error:
        found["error"] = first_line(error)
    return found


def judge_kernels(works: bool, reason: str, triton: bool, compiler: str | None) -> Finding:
    """Say whether Elf's own kernels can be compiled.

    Args:
        works: Whether one could be.
        reason: What was said if not.
        triton: Whether it is installed.
        compiler: A C compiler, if one was found.
    """
    facts = {"works": works, "triton": triton, "compiler": compiler}
    if works:
        return good("kernels", "Triton compiles them", **facts)
    slower = "without them a training takes longer, and comes to the same"
    if not triton:
        return note(
            "kernels",
            f"triton is not installed; {slower}",
            f"pip install {triton_package()}",
            **facts,
        )
    if compiler is None:
        do = "install a C compiler (apt install gcc)"
        return note("kernels", f"Triton finds no C compiler; {slower}", do, **facts)
    do = "pip install --force-reinstall torch, which brings the triton that fits it"
    return broken("kernels", f"{reason}; {slower}", do, **facts)


def _try_kernels() -> tuple[bool, str, bool, str | None]:
    import torch

    from elf.kernels import can_compile

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        works = can_compile(torch.device("cuda"))
    reason = first_line(str(caught[-1].message)) if caught else "Triton does not work"
    named = [os.environ.get("CC"), "cc", "gcc", "clang", "cl"]
    compiler = None
    with contextlib.suppress(StopIteration):
        compiler = next(found for name in named if name and (found := shutil.which(name)))
    return works, reason, importlib.util.find_spec("triton") is not None, compiler
