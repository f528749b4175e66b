"""peft's own loader has the trained networks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elf.adapters import AdapterConfig, AdapterGroup
from elf.bases import open_base
from elf.errors import ElfError
from elf.export.peft_form import export_peft
from elf.export.trained import read_trained

ALL, TEXT = "attention+feedforward+convolutions", "attention+feedforward"
GROUPS = [AdapterGroup("to_q", rank=2), AdapterGroup("*.attn2.to_k", rank=3, alpha=5)]
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=ALL, text_targets=TEXT, groups=GROUPS),
    "dora": AdapterConfig("dora", 4, 3, ALL, text_targets=TEXT),
    "rslora": AdapterConfig(rank=4, alpha=3, rslora=True),
    "pissa": AdapterConfig("dora", rank=4, alpha=3, init="pissa"),
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`")  # peft 0.21 asks transformers
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_its_loader_has_the_trained_weights(
    family: str, name: str, run: Callable[[str, AdapterConfig], Any], tmp_path: Path
) -> None:
    from peft import PeftModel

    made = run(family, CONFIGS[name])
    folders = export_peft(read_trained(made.folder), tmp_path / "peft", "float32")
    base, compared = open_base(str(made.base)), 0
    for folder in folders:
        fresh: Any = (
            base.unet(torch.float32)
            if folder.name == "unet"
            else base.text_encoder(folder.name, torch.float32)
        )
        merged = PeftModel.from_pretrained(fresh, folder).merge_and_unload()
        layers = dict(merged.named_modules())
        for label, expected in made.after.items():
            part, _, layer = label.partition(".")
            if part == folder.name:
                found = layers.get(layer, layers.get(f"text_model.{layer}"))
                torch.testing.assert_close(found.weight, expected, rtol=1e-4, atol=1e-5)
                compared += 1
    assert compared == len(made.after)


def test_the_input_axis_has_no_form(
    run: Callable[[str, AdapterConfig], Any], tmp_path: Path
) -> None:
    made = run("sd15", AdapterConfig("dora", 4, axis="input"))
    with pytest.raises(ElfError, match=r"model\.adapter\.axis: a DoRA with axis input scales the"):
        export_peft(read_trained(made.folder), tmp_path / "peft", "float32")
    assert not (tmp_path / "peft").exists()


def test_its_configuration_names_no_base(
    run: Callable[[str, AdapterConfig], Any], tmp_path: Path
) -> None:
    """Paths are of the machine that trained."""
    made = run("sd15", CONFIGS["rslora"])
    (folder,) = export_peft(read_trained(made.folder), tmp_path / "peft", "float16")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and config["use_rslora"] is True
    assert str(made.base) not in (folder / "adapter_config.json").read_text()
