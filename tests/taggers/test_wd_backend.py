"""Which of a tagger's networks runs, what is downloaded for it, and the name of its outputs."""

import json
import sys
from contextlib import closing
from pathlib import Path

import huggingface_hub
import pytest
import torch

import elf.taggers.timm_network
from elf.caching.fileindex import FileIndex
from elf.errors import ElfError
from elf.files import sha256_file
from elf.taggers import WDConfig, WDPreprocess
from elf.taggers.backend import WDSource, find_source, possible_sources
from elf.taggers.outputs import FORMAT
from elf.taggers.store import wd_key
from elf.tiny import tagger as onnx_tagger
from elf.tiny.timm_tagger import SIZE, build

HUB = "someone/wd-tagger"


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def folder_of(path: Path, *backends: str) -> Path:
    """Write the files of one network or of both; the tag list is the one of the last."""
    if "onnx" in backends:
        onnx_tagger.build(path)
    if "torch" in backends:
        build(path)
    return path


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("there", "device", "options", "expected"),
    [
        ("onnx torch", "cuda:0", {}, ("torch", "float16")),
        ("onnx torch", "cpu", {}, ("onnx", None)),
        ("onnx torch", "cuda:0", {"provider": "cpu"}, ("onnx", None)),
        ("onnx torch", "cpu", {"provider": "cuda"}, ("torch", "float16")),
        ("onnx torch", "cuda:0", {"backend": "onnx"}, ("onnx", None)),
        ("onnx torch", "cuda:0", {"dtype": "bfloat16"}, ("torch", "bfloat16")),
        ("onnx torch", "cpu", {"backend": "torch"}, ("torch", "float32")),
        ("torch", "cpu", {"backend": "torch", "dtype": "float16"}, ("torch", "float16")),
        ("onnx", "cuda:0", {}, ("onnx", None)),
        ("torch", "cuda:0", {}, ("torch", "float16")),
    ],
)
def test_what_runs(tmp_path, there, device, options, expected):
    folder = folder_of(tmp_path, *there.split())
    source = find_source(WDConfig(str(folder), **options), device)
    assert source == WDSource(folder, *expected)


def test_without_timm_or_cuda_the_onnx_file_runs(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, "onnx", "torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_source(WDConfig(str(folder)), "cuda:0").backend == "onnx"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert find_source(WDConfig(str(folder)), "cuda:0").backend == "onnx"
    with pytest.raises(ElfError, match=r"model.wd.backend: torch needs timm"):
        find_source(WDConfig(str(folder), backend="torch"), "cuda:0")


def test_the_preprocessing_is_the_chosen_networks(tmp_path):
    folder = folder_of(tmp_path, "onnx", "torch")
    assert WDSource(folder, "torch").preprocess() == WDPreprocess(SIZE)
    assert WDSource(folder, "onnx").preprocess() == WDPreprocess(onnx_tagger.RESOLUTION)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "selected_tags.csv"])
def test_a_missing_file_is_one_line(tmp_path, name):
    folder = folder_of(tmp_path, "torch")
    (folder / name).unlink()
    match = rf"tagger \(model.wd.model\), which torch is to run: .* has no {name}; is it the right"
    with pytest.raises(ElfError, match=match):
        find_source(WDConfig(str(folder), backend="torch"), "cpu")


@pytest.mark.usefixtures("cuda")
def test_automatic_finds_nothing_in_one_line(tmp_path):
    with pytest.raises(
        ElfError, match=r"tagger \(model.wd.model\): .* has no model.onnx; is it the"
    ):
        find_source(WDConfig(str(tmp_path)), "cuda:0")
    with pytest.raises(ElfError, match=r"tagger \(model.wd.model\): no folder ./none; give an exi"):
        find_source(WDConfig("./none"), "cuda:0")


# Hub names


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one tagger; returns its folder, the local one, and what was asked for."""
    remote, local, asked = tmp_path / "remote", tmp_path / "local", []

    def download(name, allow_patterns, local_files_only=False):
        assert name == HUB
        if not local_files_only:
            asked.append(allow_patterns)
            local.mkdir(exist_ok=True)
            for pattern in allow_patterns:
                for path in remote.glob(pattern):
                    (local / path.name).write_bytes(path.read_bytes())
        elif not local.exists():
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return remote, local, asked


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(
    ("device", "files"),
    [
        ("cuda:0", {"model.safetensors", "config.json", "selected_tags.csv"}),
        ("cpu", {"model.onnx", "selected_tags.csv"}),
    ],
)
def test_only_the_files_that_are_needed_are_downloaded(hub, device, files):
    remote, local, _ = hub
    folder_of(remote, "onnx", "torch")
    find_source(WDConfig(HUB), device)
    assert {path.name for path in local.iterdir()} == files


@pytest.mark.usefixtures("cuda")
def test_a_tagger_of_onnx_alone_is_run_by_onnxruntime(hub):
    remote, local, _ = hub
    folder_of(remote, "onnx")
    assert find_source(WDConfig(HUB), "cuda:0") == WDSource(local, "onnx")


@pytest.mark.usefixtures("cuda")
def test_to_look_into_a_cache_nothing_is_downloaded(hub):
    remote, local, asked = hub
    folder_of(remote, "onnx", "torch")
    find_source(WDConfig(HUB), "cuda:0")
    asked.clear()
    assert possible_sources(WDConfig(HUB)) == [WDSource(local, "torch", "float16")]
    assert asked == []


# The cache's names


@pytest.mark.parametrize(
    ("there", "options", "expected"),
    [
        ("onnx", {}, ["onnx"]),
        ("torch", {}, ["float16"]),
        ("onnx torch", {}, ["float16", "onnx"]),
        ("onnx torch", {"dtype": "bfloat16"}, ["bfloat16", "onnx"]),
        ("onnx torch", {"provider": "cpu"}, ["onnx"]),
        ("onnx torch", {"provider": "cuda"}, ["float16", "onnx"]),
        ("onnx torch", {"backend": "onnx"}, ["onnx"]),
        ("onnx torch", {"backend": "torch"}, ["float16", "float32"]),
        ("onnx torch", {"backend": "torch", "provider": "cpu"}, ["float32"]),
        ("onnx torch", {"backend": "torch", "provider": "cuda"}, ["float16"]),
        ("onnx torch", {"backend": "torch", "dtype": "float32"}, ["float32"]),
    ],
)
def test_what_may_have_filled_a_cache(tmp_path, there, options, expected):
    folder = folder_of(tmp_path, *there.split())
    sources = possible_sources(WDConfig(str(folder), **options))
    assert [source.dtype or source.backend for source in sources] == expected


def test_a_cache_of_a_tagger_that_is_gone_is_one_line(tmp_path):
    folder = folder_of(tmp_path, "onnx")
    (folder / "model.onnx").unlink()
    with pytest.raises(
        ElfError, match=r"tagger \(model.wd.model\): .* has no model.onnx; is it the"
    ):
        possible_sources(WDConfig(str(folder)))


def test_the_name_says_what_makes_the_scores(tmp_path):
    folder = folder_of(tmp_path / "tagger", "onnx", "torch")

    def key(*source: str) -> str:
        with closing(FileIndex(tmp_path)) as files:
            return wd_key(WDSource(folder, *source), files, "exact1")

    onnx = sha256_file(folder / "model.onnx")[:16]
    assert key("onnx") == f"wd-{onnx}-exact1-{FORMAT}"  # what it was before there was a choice
    weights = sha256_file(folder / "model.safetensors")[:16]
    config = sha256_file(folder / "config.json")[:8]
    assert key("torch", "float16") == f"wd-{weights}-{config}-float16-exact1-{FORMAT}"
    before = {key("torch", "float16"), key("torch", "float32"), key("onnx")}
    assert len(before) == 3
    facts = json.loads((folder / "config.json").read_text())
    facts["pretrained_cfg"]["mean"] = [0.4, 0.4, 0.4]
    (folder / "config.json").write_text(json.dumps(facts))
    assert key("torch", "float16") not in before and key("onnx") in before


def test_timm_is_not_imported_to_choose(tmp_path, monkeypatch):
    def fail():
        raise AssertionError("timm was imported")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(elf.taggers.timm_network, "import_timm", fail)
    folder = folder_of(tmp_path, "torch")
    assert find_source(WDConfig(str(folder)), "cuda:0").preprocess() == WDPreprocess(SIZE)
