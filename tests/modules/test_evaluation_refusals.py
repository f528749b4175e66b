"""What `elf test` refuses, in one line each."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elf import cli, trainer
from elf.errors import ElfError
from elf.export import export_diffusers
from elf.modules import DiffusionModule

Given = Callable[..., list[str]]


def with_clip_skip(run_folder: Path, folder: Path) -> Path:
    """Return a copy of a run's checkpoint whose base had another clip_skip."""
    checkpoint = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    checkpoint["elf"]["base_options"]["clip_skip"] = 2
    torch.save(checkpoint, folder / "skips.ckpt")
    return folder / "skips.ckpt"


def test_adapters_without_a_base_in_common_are_refused(
    given: Given, run_folder: Path, tmp_path: Path
) -> None:
    skips = with_clip_skip(run_folder, tmp_path)
    more = (f"--model.adapter=[{run_folder}, {skips}]",)
    with pytest.raises(ElfError) as error:
        trainer.test(given(tmp_path, *more))
    assert str(error.value) == (
        f"model.adapter: {skips} was trained with another prediction_type, "
        f"zero_terminal_snr, clip_skip or caption_tokens than {run_folder}, so they have no base "
        "in common; evaluate them one by one"
    )


def test_shards_of_other_models_are_refused(given: Given, run_folder: Path, tmp_path: Path) -> None:
    skips = with_clip_skip(run_folder, tmp_path)
    more = (f"--model.adapter={skips}",)
    with pytest.raises(ElfError, match=r"the caches were made by another text model \("):
        trainer.test(given(tmp_path, *more))


def test_an_adapter_that_is_not_finite_is_refused(
    given: Given, run_folder: Path, tmp_path: Path
) -> None:
    checkpoint = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    key = next(iter(checkpoint["state_dict"]))
    checkpoint["state_dict"][key].fill_(float("nan"))
    torch.save(checkpoint, tmp_path / "broken.ckpt")
    more = (f"--model.adapter={tmp_path / 'broken.ckpt'}",)
    with pytest.raises(ElfError) as error:
        trainer.test(given(tmp_path, *more))
    assert str(error.value) == (
        f"model.adapter: {tmp_path / 'broken.ckpt'}: {key} is not finite; take an earlier "
        "checkpoint"
    )


@pytest.mark.parametrize("exported", [False, True])
def test_an_adapter_of_another_base_is_refused(
    given: Given, exported: bool, run_folder: Path, tiny_sdxl: Path, tmp_path: Path
) -> None:
    more = (f"--model.base={tiny_sdxl}",)
    adapter = export_diffusers(run_folder, tmp_path / "file") if exported else run_folder
    with pytest.raises(ElfError) as error:
        trainer.test(given(tmp_path, *more, f"--model.adapter={adapter}"))
    assert re.fullmatch(
        rf"model\.adapter: {adapter} was trained on the UNet \w{{12}}…, and model\.base "
        rf"{tiny_sdxl} has \w{{12}}…; name the base of its run",
        str(error.value),
    )
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--data.prompts=[]", "data.prompts is empty; give at least one"),
        ("--data.seeds=[1,1]", "data.seeds holds one twice; each pair is measured once"),
        (
            "--model.generation.batch_size=2",
            "model.generation.batch_size: leave it out; data.batch_size says how many pictures are "
            "drawn at a time",
        ),
        ("--data.batch_size=0", "data.batch_size 0 is too small: at least 1"),
        ("--data.references=0", "data.references 0 is too small: at least 1"),
        ("--model.adapter=[]", "model.adapter is empty; give at least one"),
        ("--model.strengths=[]", "model.strengths is empty; give at least one"),
        ("--model.strengths=[1, 1]", "model.strengths holds one twice; each is measured once"),
        (
            "--trainer.limit_test_batches=1",
            "trainer.limit_test_batches 1: a plan is measured whole; give fewer data.prompts or",
        ),
        (
            "--model.trigger=orc",
            "model.trigger 'orc' stands in none of data.prompts: put it into those in which the",
        ),
        ("--model.generation.steps=0", "model.generation.steps is 0; take 1 or more"),
        ("--model.generation.width=60", "model.generation.width 60 is no multiple of 8"),
        ("--model.tag_threshold=35", "model.tag_threshold 35.0 is a probability: 0 to 1"),
        ("--model.strengths=[1, 1.00000001]", "two are so alike that their pictures would share"),
        ("--model.strengths=[0]", "model.strengths: 0 is none; 1 is the adapter as it was trained"),
        ("--model.models.dyno=x", "unknown key 'model.models.dyno'; did you mean 'dino'?"),
        ("--model.adapter=nowhere", "adapter: no run folder or checkpoint nowhere; give"),
        ("--model.concept=elf", "model.concept: 'elf' is no tag of the tagger"),
        ("--data.shards=nowhere", "nowhere/prepared.json is missing: run `elf prepare"),
    ],
)
def test_mistakes_are_one_line(
    given: Given, more: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["test", *given(tmp_path, more)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("size", "way"), [(4, "take 2"), (1, "make model.generation.width and height less")]
)
def test_a_full_gpu_names_the_batch_size(
    given: Given, size: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(DiffusionModule, "generate", full)
    more = given(tmp_path, f"--data.batch_size={size}")
    message = f"data.batch_size {size} takes more memory than cpu has .*allocate 2 GiB.*; {way}$"
    with pytest.raises(ElfError, match=message):
        trainer.test(more)


def test_a_checkpoint_is_named_by_the_model_not_by_ckpt_path(
    given: Given, run_folder: Path, tmp_path: Path
) -> None:
    more = f"--ckpt_path={run_folder / 'checkpoints' / 'last.ckpt'}"
    with pytest.raises(ElfError, match=r"name the adapter by --model\.adapter"):
        trainer.test(given(tmp_path, more))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="gloo and spawn differ there")
def test_what_one_process_finds_wrong_ends_them_all(
    given: Given, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    clip = shutil.copytree(tiny_models["clip"], tmp_path / "clip")
    tensors = load_file(clip / "model.safetensors")
    for tensor in tensors.values():
        tensor.fill_(float("nan"))
    save_file(tensors, clip / "model.safetensors", {"format": "pt"})
    two = ("--trainer.devices=2", "--trainer.strategy=ddp", f"--model.models.clip={clip}")
    result = subprocess.run(
        [sys.executable, "-m", "elf", "test", *given(tmp_path / "two", *two)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("elf: error")]
    assert len(errors) == 1 and "gives values that are not finite" in errors[0]
    assert "Traceback" not in result.stderr
