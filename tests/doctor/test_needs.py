"""A config is read for what it needs, without anything of it being imported."""

from pathlib import Path

import pytest
import yaml

from elf.doctor.needs import Needs, needs_of, read_needs
from elf.errors import ElfError

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("configs/*/*.yaml"))


def test_a_trainings() -> None:
    needs = read_needs(["configs/train/sd15-lora.yaml"])
    assert needs.base == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert needs.gpu == "trainer.precision 16-mixed"
    assert needs.run == "models/wood_elf"
    assert needs.places == {
        "data.pictures": ["data/raw"],
        "data.labels": ["data/labels"],
        "data.shards": ["data/shards/wood_elf"],
    }
    assert (needs.devices, needs.workers, needs.bitsandbytes) == (1, 2, None)


def test_later_configs_win() -> None:
    needs = read_needs(["configs/train/sd15-lora.yaml", "configs/hardware/24gb.yaml"])
    assert needs.bf16 and needs.gpu is None
    assert needs.base == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_what_other_commands_need() -> None:
    tagging = read_needs(["configs/tag/realistic.yaml"])
    assert set(tagging.models) == {"model.wd.model", "model.florence.model"}
    assert set(read_needs(["configs/eval/image.yaml"]).models) == {
        "model.models.clip", "model.models.dino", "model.models.tagger"
    }  # fmt: skip
    assert (
        read_needs(["configs/train/language-qlora.yaml"]).bitsandbytes == "model.quantization nf4"
    )
    assert read_needs(["configs/serve/gradio.yaml"]).base is not None
    eight = {"model": {"optimizer": {"class_path": "bitsandbytes.optim.AdamW8bit"}}}
    assert needs_of(eight, "x").bitsandbytes == "model.optimizer bitsandbytes.optim.AdamW8bit"
    assert needs_of({"trainer": {"accelerator": "gpu"}}, "x").gpu == "trainer.accelerator gpu"
    assert needs_of({"device": "cuda:1"}, "x").gpu == "device cuda:1"
    assert needs_of({"model": {"wd": {"provider": "cuda"}}}, "x").cuda_tagger
    cpu = {"accelerator": "cpu", "devices": 2, "precision": "bf16-mixed"}
    assert needs_of({"trainer": cpu}, "x") == Needs(config=True, run="models/x")
    assert needs_of({"trainer": {"devices": [0, 1]}}, "x").devices == 2
    sets = {"sets": [{"pictures": "a"}], "pictures": "data/raw", "labels": "data/labels"}
    assert needs_of({"data": sets}, "x").places == {}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_can_be_read(name: str) -> None:
    needs = read_needs([name])
    assert Needs(**needs.as_dict()) == needs
    if "base" in yaml.safe_load((ROOT / name).read_text("utf-8")).get("model", {}):
        assert needs.base


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"--config: .*run\.yaml cannot be read \(No such file"),
        (b"- 1", r"--config: .*run\.yaml is no mapping of keys; give a config of Elf's"),
        (b"a: [", r"run\.yaml: not valid YAML"),
        (b"a: \xff", r"--config: .*run\.yaml is not UTF-8 text: save it as UTF-8"),
    ],
)
def test_configs_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ElfError, match=message):
        read_needs([str(path)])
