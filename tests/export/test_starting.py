"""A training begins with what another adapter, or a file of one, does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elf import adapters, trainer
from elf.adapters import AdapterConfig
from elf.errors import ElfError
from elf.export import export_diffusers, read_adapter
from elf.export.command import export_kohya
from elf.export.trained import read_trained
from elf.modules import DiffusionModule
from elf.training.beginning import begin_from_adapter
from elf.training.checkpoints import read_checkpoint

ALL, TEXT = "attention+feedforward+convolutions", "attention+feedforward"
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=ALL, text_targets=TEXT),
    "rslora": AdapterConfig(rank=4, alpha=3, rslora=True),
    "dora": AdapterConfig("dora", 4, 3, ALL, axis="input", text_targets=TEXT),
}
Make = Callable[[str, AdapterConfig], Any]


def begun(base: Path, config: AdapterConfig, file: Path) -> dict[str, torch.Tensor]:
    """W' of each layer at the start of a training."""
    module = DiffusionModule(str(base), config)
    module.configure_model()
    begin_from_adapter(module.denoiser.parts, read_trained(file, str(base)))
    return {
        f"{part}.{adapters.file_key(name)}": adapters.base_weight(layer)
        + adapters.delta_weight(layer)
        for part, network in module.denoiser.parts.items()
        for name, layer in network.named_modules()
        if hasattr(layer, "lora_A")
    }


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_it_begins_with_the_weights_of_the_other(
    family: str, name: str, run: Make, tmp_path: Path
) -> None:
    """From the run and from its file, with another alpha, too."""
    made = run(family, CONFIGS[name])
    file = export_kohya(read_trained(made.folder), str(made.base), tmp_path / "k", "float32")
    values = {**adapters.describe(CONFIGS[name]), "alpha": 7, "rslora": False}
    for source, config in ((made.folder, CONFIGS[name]), (file, AdapterConfig(**values))):
        after = begun(made.base, config, source)
        assert after.keys() == made.after.keys()
        for label, expected in made.after.items():
            torch.testing.assert_close(after[label], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (AdapterConfig("dora", rank=4), r"has kind lora, this config says dora; set model\.adapt"),
        (AdapterConfig(rank=8), r"has rank 4, this config says 8; set model\.adapter\.rank to 4"),
        (AdapterConfig(rank=4, targets=["to_q"]), r"adapts unet\.\S+ \(\d+ such layers\); set"),
        (AdapterConfig(rank=4, targets=TEXT), r"does not adapt unet\.\S+ \(\d+ such layers\)"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused(config: AdapterConfig, message: str, run: Make) -> None:
    made = run("sd15", AdapterConfig(rank=4))
    with pytest.raises(ElfError, match=message):
        begun(made.base, config, made.folder)


def test_another_axis_is_refused(run: Make) -> None:
    made = run("sd15", AdapterConfig("dora", rank=4, axis="input"))
    with pytest.raises(ElfError, match=r"has axis input, this config says output; set model\.ada"):
        begun(made.base, AdapterConfig("dora", rank=4), made.folder)


def test_an_initialisation_beside_it_is_refused() -> None:
    with pytest.raises(ElfError, match=r"model\.adapter\.start: what is in x is where A and B"):
        adapters.validate(AdapterConfig(start="x", init="pissa"))


def test_elf_fit_trains_it_on(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a rate of nothing what is trained is what was in the file, and its average is, too."""
    first = [*training, f"--trainer.default_root_dir={tmp_path / 'a'}", "--trainer.max_steps=4"]
    trainer.fit(first)
    file = export_diffusers(tmp_path / "a", tmp_path / "file", "float32")
    more = [
        f"--model.adapter.start={file}",
        "--model.optimizer.init_args.lr=1e-12",
        "--model.ema.decay=0.9",
        f"--trainer.default_root_dir={tmp_path / 'b'}",
        "--trainer.max_steps=2",
    ]
    trainer.fit([*training, *more])
    assert f"The adapter begins from {file}." in capsys.readouterr().out
    before, after = (read_adapter(tmp_path / name)[1] for name in ("a", "b"))
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        torch.testing.assert_close(after[key], tensor, rtol=1e-5, atol=1e-7)
    checkpoint = read_checkpoint(tmp_path / "b" / "checkpoints" / "last.ckpt")
    assert str(tmp_path) not in str(checkpoint["elf"]["adapter"])
    trainer.fit([*training, *more[1:-1], "--trainer.max_steps=3", "--ckpt_path=last"])
