"""What the fuzzer found, so that it is not found again: the file, and what is said of it."""

import contextlib
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elf.bases import open_base
from elf.bases.header import Header
from elf.bases.schedule import noise_schedule, overridden, sampler
from elf.caching.fileindex import FileIndex
from elf.callbacks.run_record import record
from elf.checked import write_checked
from elf.curation.verdicts import read_verdicts
from elf.errors import ElfError
from elf.export.reading import read_adapter, read_origin
from elf.images import picture_id
from elf.labels.journal import Journal
from elf.labels.manifest import LabelFolder
from elf.labels.records import read_records
from elf.language.prompts import parse_prompt
from elf.language.settings import TextSettings
from elf.language.store import TokenStore
from elf.preparation.labelled import read_labelled
from elf.preparation.prepared import read_prepared
from elf.preparation.sets import PictureSet
from elf.preparation.shards import Sample, read_index, write_shard

Folder = tuple[Path, str]


@pytest.fixture
def labels(tmp_path: Path) -> Folder:
    """A folder with a picture, and its id."""
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path, picture_id((tmp_path / "a.png").read_bytes())


def write_manifest(labels: Folder, **record: Any) -> Path:
    folder, key = labels
    values = {"id": key, "path": "a.png", "tags": ["leaf"], **record}
    (folder / "manifest.jsonl").write_text(json.dumps(values) + "\n")
    return folder


BAD_RECORDS: list[tuple[dict[str, Any], str]] = [
    ({"tags": [["a"]]}, "`tags` must be a list of strings"),
    ({"tags": 1.5}, "`tags` must be a list of strings"),
    ({"tags": ["\ud83d"]}, "`tags` must be a list of strings"),
    ({"caption": ["a"]}, "`caption` must be a string or null"),
    ({"attributes": 7}, "`attributes` must be an object"),
    ({"attributes": {"decision": "a"}}, "`attributes.decision` must be an object"),
    ({"attributes": {"before_review": []}}, "`attributes.before_review` must be an object"),
    ({"attributes": {"before_review": {"tags": 1}}},
     "`attributes.before_review.tags` must be a list of strings"),
    ({"attributes": {"trigger": [1]}}, "`attributes.trigger` must be a string"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "message"), BAD_RECORDS)
def test_records_of_which_no_label_can_be_made(
    labels: Folder, values: dict[str, Any], message: str
) -> None:
    folder, key = labels
    write_manifest(labels, **values)
    with pytest.raises(ElfError, match=f"manifest.jsonl, line 1: {message}; mend or delete"):
        list(read_records(folder / "manifest.jsonl"))
    with pytest.raises(ElfError, match=f"manifest.jsonl, line 1: {message}; mend or delete"):
        read_labelled(PictureSet(str(folder), labels=str(folder)))
    with pytest.raises(ElfError, match=f"manifest.jsonl: {key}: {message}; mend or delete"):
        LabelFolder(folder)


def test_a_journal_beside_a_manifest_that_is_none(labels: Folder) -> None:
    folder, key = labels
    new = {"id": key, "path": "a.png", "tags": []}
    for line in (b'{"id": "\x80\x80"}\n', b'{"id": [1]}\n'):
        (folder / "manifest.jsonl").write_bytes(line)
        with (
            contextlib.closing(Journal(folder, 0)) as journal,
            pytest.raises(ElfError, match="line 1: no"),
        ):
            journal.write(new)
    write_manifest(labels)
    (folder / ".journal-00000.jsonl").write_text(json.dumps(new | {"tags": "a"}) + "\n")
    with pytest.raises(ElfError, match=f"{key}: `tags` must be a list of strings"):
        LabelFolder(folder)


def test_a_quarantine_of_no_picture(labels: Folder) -> None:
    folder = write_manifest(labels)
    (folder / ".quarantine-00000.jsonl").write_text('{"path": [1], "reason": "a"}\n')
    with pytest.raises(ElfError, match=r"quarantine-00000.jsonl, line 1: no `path`; delete"):
        LabelFolder(folder)


def test_a_decision_with_half_a_character(labels: Folder) -> None:
    folder = write_manifest(labels)
    line = {"id": labels[1], "tags": ["\ud83d"]}
    (folder / "decisions.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ElfError, match="line 1: `tags` must be a list of strings or null"):
        read_verdicts(folder)


@pytest.mark.parametrize("path", ["a\0.png", "\ud83d.png"])
def test_a_path_that_is_no_name_of_a_file(labels: Folder, path: str) -> None:
    from elf.images import BadImage

    folder = write_manifest(labels, path=path)
    (folder / f"{labels[1]}.txt").write_text("leaf\n")
    (source,), _ = read_labelled(PictureSet(str(folder), labels=str(folder)))
    with pytest.raises(BadImage, match="unreadable"):
        source.location.read()


def test_an_index_of_files_with_paths_that_are_none(labels: Folder) -> None:
    folder, _ = labels
    line = {"path": {"a": 1}, "size": 1, "mtime": 2, "sha256": "3"}
    (folder / "files-000.jsonl").write_text(json.dumps(line) + "\n")
    assert FileIndex(folder).lookup(folder / "a.png") is None


@pytest.fixture
def shard(tmp_path: Path) -> tuple[Path, Callable[..., None]]:
    """A shard, and what writes its index anew, checksum and all."""
    tar = tmp_path / "train-00000-of-00001.tar"
    write_shard(tar, [Sample("a", {"txt": b"leaf"})])
    path = tmp_path / "train-00000-of-00001.index.json"
    whole = json.loads(path.read_bytes())
    del whole["checksum"]

    def change(**values: Any) -> None:
        write_checked(path, whole | values)

    return tar, change


@pytest.mark.parametrize(
    "values",
    [
        {"size": "\n"},
        {"sha256": [2]},
        *(
            {"entries": [{"key": "a", "members": {"txt": place}, "meta": {}}]}
            for place in ([512, None], [512.0, 4], [-1, 4], [512, -4], [512, 1 << 60], [True, 1])
        ),
        {"entries": [{"key": ["a"], "members": {}, "meta": {}}]},
        {"entries": [{"key": "a", "members": {}, "meta": "b"}]},
    ],
)
def test_an_index_with_a_checksum_that_is_no_index(
    shard: tuple[Path, Callable[..., None]], values: dict[str, Any]
) -> None:
    tar, change = shard
    change(**values)
    with pytest.raises(ElfError, match=r"index.json is no index of a shard: run `elf prepare`"):
        read_index(tar)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, r"says what no preparation does \(KeyError: 'settings'\): run `elf prepare"),
        ({"settings": 3}, "says what no preparation does .AttributeError"),
        ({"settings": {"max_side.a": 1}}, "says what no preparation does .TypeError"),
        ({"settings": {}, "tars": 7}, "prepared.json names no shards: run `elf prepare"),
        ({"settings": {}, "tars": {"train-" + "1" * 999 + "-of-1.tar": ""}}, "which is no shard"),
    ],
)
def test_a_list_of_shards_with_a_checksum_that_is_none(
    tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    write_checked(tmp_path / "prepared.json", {"version": 1, **record})
    with pytest.raises(ElfError, match=message):
        read_prepared(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [("/etc", "settings that are none"), ({"length": "a\nb"}, "data.length a b and not 32")],
)
def test_a_list_of_tokens_with_settings_that_are_none(
    tmp_path: Path, settings: Any, message: str
) -> None:
    meta = {"version": 1, "format": 1, "settings": settings, "tokenizer": "t"}
    write_checked(tmp_path / "meta.json", meta)
    with pytest.raises(ElfError, match=f"was made with {message}: run"):
        TokenStore.open(tmp_path, TextSettings(32), "t")


@pytest.mark.parametrize(
    "header", ['{"a": {"shape": [1], "data_offsets": [0, 1e999]}}', "[" * 100_000, '{"a": []}']
)
def test_a_header_of_tensors_that_is_none(tmp_path: Path, header: str) -> None:
    path = tmp_path / "base.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode())
    with pytest.raises(ElfError, match="is no safetensors file, or is damaged; download it again"):
        Header.read(path)


@pytest.mark.parametrize("steps", [1 << 31, 0, 1.5, [1000], "a"])
def test_a_schedule_of_no_number_of_steps(steps: Any) -> None:
    with pytest.raises(ElfError, match=r"num_train_timesteps .* whole number up to 100,000"):
        overridden({"num_train_timesteps": steps}, None, None, "base")


@pytest.mark.parametrize("make", [noise_schedule, sampler])
@pytest.mark.parametrize("values", [{"beta_schedule": 0}, {"beta_start": {"a": 1}}])
def test_a_schedule_of_other_values(make: Callable[..., Any], values: dict[str, Any]) -> None:
    with pytest.raises(ElfError, match="its scheduler's configuration gives no noise schedule"):
        make(values)


@pytest.mark.parametrize(
    "told", [[], {}, {"a": 1}, {"a": "../model.safetensors"}, {"a": "/etc/passwd"}, None]
)
def test_an_index_of_weights_that_names_none_beside_it(
    tiny_models: dict[str, Path], tmp_path: Path, told: Any
) -> None:
    base = Path(shutil.copytree(tiny_models["base"], tmp_path / "base"))
    (base / "unet/diffusion_pytorch_model.safetensors").unlink()
    index = base / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": told}))
    message = f"base model: {index} is damaged: its weight_map names no files beside it"
    with pytest.raises(ElfError, match=re.escape(message)):
        open_base(str(base)).unet(torch.float32)


def test_a_configuration_that_is_too_deep(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_models["base"], tmp_path / "base"))
    (base / "unet/config.json").write_text("[" * 100_000)
    with pytest.raises(ElfError, match=r"unet/config\.json is damaged; download it again"):
        open_base(str(base))


@pytest.mark.parametrize("value", [[1], "wide", {"a": 1}, -4])
def test_a_text_encoder_of_no_width(
    tiny_models: dict[str, Path], tmp_path: Path, value: Any
) -> None:
    base = Path(shutil.copytree(tiny_models["base"], tmp_path / "base"))
    config = base / "text_encoder/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": value}))
    with pytest.raises(ElfError, match=r"could not be loaded \(.+\); download it again") as error:
        open_base(str(base)).text_encoder("text_encoder", torch.float32)
    assert "\n" not in str(error.value)


def test_a_sampler_is_one_of_diffusers_samplers() -> None:
    assert type(sampler({"_class_name": "StableDiffusionPipeline"})).__name__ == "DDIMScheduler"
    assert type(sampler({"_class_name": "logging"})).__name__ == "DDIMScheduler"


@pytest.mark.parametrize("told", [{}, {"adapter": {"rank": 1, "new": 2}}, {"adapter": 3}, [1]])
def test_a_checkpoint_that_says_nothing_of_an_adapter(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "a.ckpt"
    torch.save({"elf": told, "state_dict": {}}, path)
    with pytest.raises(ElfError, match=r"of its adapter what `elf fit` does not \(.*; give anoth"):
        read_adapter(path)
    if isinstance(told, list):
        with pytest.raises(ElfError, match="says nothing of its base; give a checkpoint"):
            read_origin(path)


def test_a_header_with_the_end_of_a_line_in_it(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "\n", "shape": [0], "data_offsets": [0, 0]}}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ElfError, match="is no safetensors file") as error:
        read_adapter(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("more", ["NaN", "1e999", '"\\ud83d"'])
def test_a_prompt_beside_which_stands_what_json_has_not(more: str) -> None:
    line = f'{{"prompt": "1 +", "more": {more}}}'
    with pytest.raises(ElfError, match=r"a.jsonl:1: a key holds NaN, an infinity or half a surro"):
        parse_prompt(line.encode(), "a.jsonl:1")


@pytest.mark.parametrize("old", ["[" * 100_000, '{"a": "\\ud83d"}'])
def test_a_record_of_a_run_that_is_none(tmp_path: Path, old: str) -> None:
    path = tmp_path / "environment.json"
    path.write_text(old)
    record(path, {"b": 1}, 5)
    assert "b" in path.read_text()
