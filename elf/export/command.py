"""``elf export``: an adapter as the files that others load, each read again before it is done."""

from pathlib import Path
from typing import Literal

from elf.command_parser import CommandParser
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.diffusers_form import export_diffusers
from elf.export.header import kohya_header
from elf.export.kohya_form import kohya_file, refuse_errors
from elf.export.reading import base_of_run
from elf.export.tensors import DType
from elf.export.trained import Trained, read_trained
from elf.export.verifying import verify_kohya
from elf.export.writing import write_file
from elf.files import atomic_path

Target = Literal["diffusers", "kohya"]
SHOWN = 5


def main(arguments: list[str]) -> None:
    """``elf export --input RUN_OR_CHECKPOINT --output FILE --target diffusers|kohya``."""
    parser = CommandParser("export", "Write an adapter as the file that others load.")
    add = parser.add_argument
    add("--input", type=str, required=True, help="run folder, checkpoint, or exported file")
    add("--output", type=str, required=True, help=".safetensors file, or folder")
    whom = "diffusers (PEFT and backends, too) or kohya (ComfyUI, A1111, Forge, kohya)"
    add("--target", type=Target, default="diffusers", help=whom)
    add("--dtype", type=DType, default="float16", help="type of the tensors")
    add("--base", type=str, help="base of the training; else the one that the run names")
    add("--rank", type=int, help="kohya: bring layers down to this rank")
    off = "kohya: how far a layer may be off for --rank or for LoRA instead of DoRA"
    add("--max_error", type=float, default=0.05, help=off)
    add("--title", type=str, help="kohya: name of the adapter; else of the run or file")
    add("--trigger", type=str, help="kohya: the trigger phrase, to be shown by web UIs")
    add("--verify", type=bool, default=True, help="read the file again and compare")
    add("--plan", type=bool, default=False, help="kohya: show keys and shapes, write nothing")
    options = parser.read(arguments)
    if options.target == "diffusers":
        for name in ("rank", "title", "trigger"):
            if getattr(options, name) is not None:
                raise ElfError(f"{name}: diffusers' file has none; add --target kohya")
        if options.plan:
            raise ElfError("plan: of kohya's form; add --target kohya")
        path = export_diffusers(options.input, options.output, options.dtype)
        _told(path, options.dtype)
        return
    trained = read_trained(options.input)
    export_kohya(
        trained, options.base or base_of_run(options.input), options.output, options.dtype,
        options.rank, options.max_error, options.title, options.trigger, options.verify,
        options.plan,
    )  # fmt: skip


def export_kohya(
    trained: Trained,
    base: str,
    output: str | Path,
    dtype: DType = "float16",
    rank: int | None = None,
    max_error: float = 0.05,
    title: str | None = None,
    trigger: str | None = None,
    verify: bool = True,
    plan: bool = False,
) -> Path | None:
    """Write an adapter in the form that ComfyUI, A1111, Forge and kohya's scripts read.

    Args:
        trained: The adapter.
        base: Of its training: by it layers are named, and DoRA is converted and compared.
        output: A ``.safetensors`` file, or a folder that gets one named by the title.
        dtype: Of A and B.
        rank: Layers are brought down to it; None keeps what was trained.
        max_error: Relative error that this, or LoRA in DoRA's place, may have in a layer.
        title: The adapter's name; its run's or file's if None.
        trigger: The trigger phrase.
        verify: Read the file again, and compare what it does.
        plan: Print keys and shapes, and write nothing.

    Returns:
        The file; None of a plan.

    Raises:
        ElfError: If the base is not that of the training, a layer would be off by more than
            `max_error`, or what was written is not what was trained.
    """
    if rank is not None and rank < 1:
        raise ElfError(f"rank: {rank} is none; take 1 or more")
    basis = Basis(base, trained)
    layers, title = trained.layers, title or trained.title
    file = kohya_file(layers, basis.kohya_name, dtype, basis.weight, rank)
    if plan:
        for key, tensor in file.tensors.items():
            print(key, *tensor.shape)
    _told_errors(file.errors)
    refuse_errors(file.errors, max_error)
    if plan:
        return None
    prediction = basis.base.prediction_type
    header = kohya_header(
        trained, basis.base.family, prediction, file.tensors, layers, title, trigger, rank
    )
    path = Path(output)
    if path.suffix != ".safetensors":
        path = path / f"{title}.safetensors"
    with atomic_path(path) as temporary:
        write_file(temporary, file.tensors, header)
        if verify:
            print(
                verify_kohya(temporary, layers, basis.kohya_name, dtype, basis.weight, file.errors)
            )
    _told(path, dtype)
    return path


def _told(path: Path, dtype: str) -> None:
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB, {dtype})")


def _told_errors(errors: dict[str, float]) -> None:
    if not errors:
        return
    worst = sorted(errors, key=lambda name: errors[name], reverse=True)
    print(f"{len(errors)} layers are near what was trained, not the same; the farthest:")
    for name in worst[:SHOWN]:
        print(f"  {errors[name]:7.2%}  {name}")
