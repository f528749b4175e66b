"""``elf export``: an adapter as the files that others load, each read again before it is done."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace
from torch import Tensor

from elf.configuration.command_parser import CommandParser
from elf.dtypes import DType
from elf.errors import ElfError
from elf.export.basis import Basis
from elf.export.diffusers_form import diffusers_file, write_diffusers
from elf.export.extras import tag_frequency, thumbnail
from elf.export.header import kohya_header
from elf.export.kohya_form import kohya_file, partly_adapted, refuse_errors
from elf.export.language_form import write_merged_language
from elf.export.merged_form import export_merged
from elf.export.peft_form import export_peft, peft_files
from elf.export.reading import PEFT_WEIGHTS, base_of_run, of_run
from elf.export.trained import Trained, read_trained
from elf.export.verifying import verify_kohya, verify_merged
from elf.export.writing import write_file
from elf.files import atomic_path, explain_disk_errors

TARGETS = ("diffusers", "kohya", "comfy", "peft", "merged")
SHOWN = 5
WAY = "make room, or name another --output"


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("export", "Write an adapter as the files that others load.")
    add = parser.add_argument
    add("--input", type=str, required=True, help="run folder, checkpoint, or exported file")
    add("--output", type=str, required=True, help=".safetensors file, or folder")
    whom = (
        "diffusers (backends, too), kohya or comfy (ComfyUI, A1111, Forge, kohya's scripts), peft "
        "(a folder for each network), merged (the base with the adapter in it); several with commas"
    )
    add("--target", type=str, help=f"{whom}; diffusers if left out, of a language model peft")
    add("--dtype", type=DType, default="float16", help="type of the tensors")
    add("--base", type=str, help="base of the training; else the one that the run names")
    add("--rank", type=int, help="kohya: bring layers down to this rank")
    off = "kohya: how far a layer may be off for --rank or for LoRA instead of DoRA"
    add("--max_error", type=float, default=0.05, help=off)
    add("--title", type=str, help="kohya: name of the adapter; else of the run or file")
    add("--trigger", type=str, help="kohya: the trigger phrase, to be shown by web UIs")
    add("--thumbnail", type=str, help="kohya: a picture to be shown by web UIs")
    told = "kohya: say how many captions have each tag, as trainers' files do; else it is not told"
    add("--tag_frequency", type=bool, default=False, help=told)
    add("--verify", type=bool, default=True, help="read what was written again and compare")
    add("--plan", type=bool, default=False, help="show keys and shapes, write nothing")
    return parser


def main(arguments: list[str]) -> None:
    """``elf export --input RUN_OR_CHECKPOINT --output FILE --target diffusers,kohya,…``."""
    options = make_parser().read(arguments)
    trained = read_trained(options.input, options.base)
    targets = _targets(options.target or ("peft" if trained.of_language else "diffusers"))
    if trained.of_language:
        with explain_disk_errors(options.output, "could not be written", WAY):
            export_language(trained, targets, options)
        return
    if "kohya" not in targets:
        for name in ("rank", "title", "trigger", "thumbnail", "tag_frequency"):
            if getattr(options, name):
                raise ElfError(f"{name}: {','.join(targets)} has none; add --target kohya")
    output = Path(options.output)
    if len(targets) > 1 and output.suffix == ".safetensors":
        raise ElfError(f"output: {output} is one file for several targets; name a folder")
    base = options.base or ""
    if not base and {"kohya", "merged"} & set(targets):
        base = base_of_run(options.input)
    with explain_disk_errors(output, "could not be written", WAY):
        _write(targets, trained, base, options)


def _write(targets: list[str], trained: Trained, base: str, options: Namespace) -> None:
    """Write a model's adapter that makes pictures, in each form."""
    output, dtype, verify = Path(options.output), options.dtype, options.verify
    several = len(targets) > 1
    for target in targets:
        if options.plan and target != "kohya":
            show_plan(target, trained, base, dtype)
        elif target == "diffusers":
            _told(write_diffusers(trained, output, dtype, verify), dtype)
        elif target == "peft":
            for folder in export_peft(
                trained, output / "peft" if several else output, dtype, verify=verify
            ):
                print(f"wrote {folder}")
        elif target == "kohya":
            export_kohya(
                trained, base, output, dtype, options.rank, options.max_error, options.title,
                options.trigger, verify, options.plan, *_extras(options),
            )  # fmt: skip
        else:
            write_merged(trained, base, output / "merged" if several else output, dtype, verify)


def show_plan(target: str, trained: Trained, base: str, dtype: DType) -> None:
    """Print what a target would hold: names of tensors, and their shapes.

    Of a merged base these are the tensors that the adapter changes.
    """
    if target == "diffusers":
        _show(diffusers_file(trained, dtype)[0])
    elif target == "peft":
        for part, (tensors, _) in peft_files(trained, dtype).items():
            _show({f"{part}/{PEFT_WEIGHTS}: {key}": tensor for key, tensor in tensors.items()})
    else:
        basis = Basis(base, trained)
        found = dict.fromkeys((path, place.key) for path, place in map(basis.place, trained.layers))
        for path, key in found:
            where = "" if basis.stored.single else f"{path.parent.name}/{path.name}: "
            print(f"{where}{key}", *basis.stored.header(path).shapes[key])


def _show(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        print(key, *tensor.shape)


def export_language(trained: Trained, targets: list[str], options: Namespace) -> None:
    """Write an adapter of a language model in the forms that there are.

    Raises:
        ElfError: If a target is none of them.
    """
    for name in targets:
        if name not in ("peft", "merged"):
            raise ElfError(
                f"target: {name} is of models that make pictures; a language model's are peft "
                "(transformers, vLLM) and merged"
            )
    output = Path(options.output)
    if output.suffix == ".safetensors":
        raise ElfError(f"output: {output} is one file; a language model's adapter is a folder")
    if options.plan:
        for tensors, _ in peft_files(trained, options.dtype).values():
            _show(tensors)
        return
    base = options.base or of_run(options.input, "model", "base")
    if "peft" in targets:
        folder = output / "peft" if len(targets) > 1 else output
        for written in export_peft(trained, folder, options.dtype, base, options.verify):
            print(f"wrote {written}")
    if "merged" in targets:
        folder = output / "merged" if len(targets) > 1 else output
        base = base or base_of_run(options.input)
        write_merged_language(trained, base, folder, options.dtype, options.verify)


def _extras(options: Namespace) -> tuple[str | None, dict[str, int] | None]:
    """Return the picture and the tags that a header is to have."""
    picture = thumbnail(Path(options.thumbnail)) if options.thumbnail else None
    if not options.tag_frequency:
        return picture, None
    shards = of_run(options.input, "data", "shards")
    if shards is None:
        raise ElfError(
            f"tag_frequency: no config.yaml beside {options.input} names data.shards; leave it out"
        )
    return picture, tag_frequency(Path(shards))


def _targets(given: str) -> list[str]:
    """Return which forms are wanted; ``comfy`` is kohya's."""
    found = [name.strip() for name in given.strip("[]").split(",")]
    for name in found:
        if name not in TARGETS:
            raise ElfError(f"target: {name!r} is none; take some of {', '.join(TARGETS)}")
    return list(dict.fromkeys("kohya" if name == "comfy" else name for name in found))


def write_merged(
    trained: Trained, base: str, output: Path, dtype: DType = "float16", verify: bool = True
) -> Path:
    """Write the base with the adapter in its weights, in the base's own layout.

    Args:
        trained: The adapter.
        base: Of its training.
        output: A ``.safetensors`` file if the base is one, else a new folder.
        dtype: Of networks that are adapted; in a file each tensor keeps its own.
        verify: Open what was written as a base, and compare its weights.

    Returns:
        What was written.

    Raises:
        ElfError: If the base is not that of the training, the output is there or of the other kind,
            or what was written is not what was trained.
    """
    basis = Basis(base, trained)
    if basis.stored.single and output.suffix != ".safetensors":
        output = output / f"{trained.title}.safetensors"
    path = export_merged(trained.layers, basis, output, dtype)
    if verify:
        merged = Basis(str(path), replace(trained, base_sha256=None))
        # in a file each tensor keeps its type, of which this is the coarsest
        rounded: DType = dtype if path.is_dir() else "bfloat16"
        try:
            print(verify_merged(trained.layers, basis, merged, rounded))
        except ElfError:
            path.unlink() if path.is_file() else shutil.rmtree(path)
            raise
    print(f"wrote {path}")
    return path


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
    picture: str | None = None,
    tags: dict[str, int] | None = None,
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
        picture: To be shown by web UIs, as a data URL.
        tags: How many captions have each tag.

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
        _show(file.tensors)
    if partly_adapted(layers):
        print(
            "A1111 applies nothing of text_encoder_2 unless q, k, v and out of a layer are all "
            "adapted; here they are not (ComfyUI and Forge apply what there is)"
        )
    _told_errors(file.errors)
    refuse_errors(file.errors, max_error)
    if plan:
        return None
    prediction = basis.base.prediction_type
    header = kohya_header(
        trained, basis.base.family, prediction, file.tensors, title, trigger, picture, tags
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
