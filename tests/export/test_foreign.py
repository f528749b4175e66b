"""Files in diffusers' form by other writers, and by none that means well."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from elf.adapters import AdapterConfig, AdapterGroup
from elf.bases import open_base
from elf.errors import ElfError
from elf.export import METADATA_KEY, ORIGIN_KEY, export_diffusers, read_adapter, read_origin

ALL, TEXT = "attention+feedforward+convolutions", "attention"
Make = Callable[[str, AdapterConfig], Any]


@pytest.fixture
def file(run: Make, tmp_path: Path) -> Path:
    made = run("sd15", AdapterConfig("dora", 4, 3, text_targets=["q_proj"]))
    return export_diffusers(made.folder, tmp_path / "out", "float32")


def rewritten(file: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Path:
    """A file after a function has changed its tensors and the values of its header."""
    with safe_open(file, "pt") as opened:
        header = {
            key: json.loads(value)
            for key, value in opened.metadata().items()
            if key in (METADATA_KEY, ORIGIN_KEY)
        }
    tensors = load_file(file)
    change(tensors, header)
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in header.items()
    }
    save_file(tensors, file.with_name("other.safetensors"), texts)
    return file.with_name("other.safetensors")


def says(key: str, value: Any) -> Callable[[Any, Any], None]:
    return lambda _, header: header[METADATA_KEY].update({key: value})


def first(tensors: dict[str, Any], end: str, start: str = "unet.") -> str:
    return next(key for key in tensors if key.endswith(end) and key.startswith(start))


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize(
    "config",
    [
        AdapterConfig("dora", 4, 3, ALL),
        AdapterConfig(rank=4, alpha=3, groups=[AdapterGroup("to_q", rank=2, alpha=7)]),
    ],
)
def test_what_diffusers_writes_is_read(
    family: str, config: AdapterConfig, run: Make, tmp_path: Path
) -> None:
    """Its own writer leaves out the end of DoRA's names."""
    from peft import get_peft_model_state_dict

    made = run(family, config)
    base = open_base(str(made.base))
    pipeline = base.pipeline(base.unet(torch.float32))
    pipeline.load_lora_weights(export_diffusers(made.folder, tmp_path / "out", "float32").parent)
    (adapter,) = pipeline.unet.peft_config.values()
    values = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in adapter.to_dict().items()
    }
    tensors = get_peft_model_state_dict(pipeline.unet, adapter_name="default_0")
    names = [key for key in tensors if "magnitude" in key]
    assert all(key.endswith("lora_magnitude_vector") for key in names)
    assert bool(names) == (config.kind == "dora")
    type(pipeline).save_lora_weights(
        tmp_path / "theirs", unet_lora_layers=tensors, unet_lora_adapter_metadata=values
    )
    theirs, state = read_adapter(tmp_path / "theirs")
    assert (theirs.kind, theirs.rank, theirs.alpha) == (config.kind, 4, 3)
    own = made.module.state_dict()
    assert state.keys() == own.keys()
    for key, tensor in state.items():
        assert torch.equal(tensor, own[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (says("unet.alpha_pattern", "a"), "makes no sense for unet; export it again by `elf ex"),
        (says("unet.alpha_pattern", {"(": 1}), "makes no sense for unet"),
        (says("unet.alpha_pattern", {"(?i)a": 1}), "makes no sense for unet"),
        (says("unet.alpha_pattern", {"a": "1"}), "makes no sense for unet"),
        (says("text_encoder.lora_alpha", 0), "makes no sense for text_encoder"),
        (says("unet.lora_alpha", 10**400), "makes no sense for unet"),
        (says("unet.lora_alpha", float("nan")), "makes no sense for unet"),
        (says("unet.lora_alpha", True), "makes no sense for unet"),
        (says("unet.use_dora", 1), "makes no sense for unet"),
        (says("unet.use_rslora", True), "has use_rslora in some of its networks alone"),
        (lambda t, h: h.update({METADATA_KEY: "[1]"}), f"the {METADATA_KEY} of .* is damaged"),
        (lambda t, h: h.update({METADATA_KEY: "[" * 9000}), f"the {METADATA_KEY} of .* is dam"),
        (lambda t, h: h.update({METADATA_KEY: "{"}), f"the {METADATA_KEY} of .* is damaged"),
        (lambda t, h: t.clear(), r"is empty, or has two tensors of one name"),
        (
            lambda t, h: t.update({first(t, "A.weight", "text").replace("text_model.", ""):
                                   torch.ones(1)}),
            r"is empty, or has two tensors of one name",
        ),
        (lambda t, h: t.pop(first(t, "lora_B.weight")), r"lacks unet\.\S+lora_B\.weight; it is"),
        (lambda t, h: t.pop(first(t, "tor.weight")), r"lacks unet\.\S+magnitude_vector\.weight"),
        (lambda t, h: t.update({"unet.a.bias": torch.ones(1)}), r"holds unet\.a\.bias; which"),
        (
            lambda t, h: t.update({first(t, "lora_B.weight"): torch.ones(4)}),
            r"the tensors of unet\.\S+ in .* do not fit each other; it is damaged",
        ),
        (
            lambda t, h: t.update({first(t, "lora_A.weight"): torch.ones(())}),
            r"the tensors of unet\.\S+ in .* do not fit each other",
        ),
        (
            lambda t, h: t.update({first(t, "tor.weight"): torch.ones(3)}),
            r"the tensors of unet\.\S+ in .* do not fit each other",
        ),
        (
            lambda t, h: t.update({first(t, "A.weight"): t[first(t, "A.weight")].int()}),
            r"the tensors of unet\.\S+ in .* do not fit each other",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(change: Any, message: str, file: Path) -> None:
    with pytest.raises(ElfError, match=message) as error:
        read_adapter(rewritten(file, change))
    assert "\n" not in str(error.value)
    assert str(error.value).count("adapter: ") == 1  # it is not wrapped into another


@pytest.mark.parametrize(
    "origin",
    [
        {"base_options": []},
        {"base_options": {"clip_skip": "2"}},
        {"base_options": {"clip_skip": True}},
        {"base_options": {"caption_tokens": None}},
        {"base_options": {"base_configs": "/etc"}},
        {"base_options": {"revision": "main"}},
        {"base_sha256": 1},
    ],
)
def test_what_a_file_says_of_its_base_is_checked(origin: dict[str, Any], file: Path) -> None:
    other = rewritten(file, lambda _, header: header[ORIGIN_KEY].update(origin))
    with pytest.raises(ElfError, match=r"adapter: what .* says of its base is damaged; export"):
        read_origin(other)


def test_options_come_in_the_order_of_a_checkpoint(file: Path) -> None:
    given = {"caption_tokens": 150, "prediction_type": "v_prediction"}
    other = rewritten(file, lambda _, header: header[ORIGIN_KEY].update(base_options=given))
    options, _ = read_origin(other)
    assert list(options.items()) == [
        ("prediction_type", "v_prediction"),
        ("zero_terminal_snr", None),
        ("clip_skip", None),
        ("base_configs", None),
        ("caption_tokens", 150),
    ]
