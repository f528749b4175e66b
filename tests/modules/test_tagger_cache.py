"""What a rerun must not do: load a model, open a picture."""

import os
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Trainer
from PIL import Image

import elf.caching.fileindex
from elf.callbacks.labels import LabelWriter
from elf.datamodules.images import PictureFolder
from elf.files import read_log
from elf.modules.tagger import TaggerModule
from elf.quiet import silence_harmless_warnings
from elf.taggers import FlorenceConfig, Preprocess, Rules, WDConfig

COUNT = 7


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_models):
    """A folder of pictures that a first run labelled."""
    silence_harmless_warnings()
    folder = tmp_path_factory.mktemp("first")
    (folder / "raw").mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        save(folder / "raw" / f"{number}.png", pixels)
    run(folder, tiny_models)
    return folder


@pytest.fixture
def labelled(first, tmp_path):
    shutil.copytree(first, tmp_path / "copy", copy_function=shutil.copy2)
    index = next((tmp_path / "copy" / "cache").glob("files-*.jsonl"))
    index.write_text(index.read_text().replace(str(first), str(tmp_path / "copy")))
    return tmp_path / "copy"


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    age(path)


def age(path):
    """Set a file's time of change back: one that was just written may change within the tick."""
    moment = time.time() - 60
    os.utime(path, (moment, moment))


def run(folder, models, rules=None, captions=True, threads=0, **options):
    florence = FlorenceConfig(str(models["captioner"]), max_new_tokens=8) if captions else None
    module = TaggerModule(WDConfig(str(models["tagger"])), florence, rules)
    writer = LabelWriter()
    data = PictureFolder(
        str(folder / "raw"), str(folder / "labels"), str(folder / "cache"),
        **{"batch_size": 3, "workers": threads, "skip_existing": False} | options,
    )  # fmt: skip
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, callbacks=[writer],
                      enable_progress_bar=False, enable_checkpointing=False,
                      default_root_dir=folder)  # fmt: skip
    trainer.predict(module, datamodule=data, return_predictions=False)
    return writer.summary


@pytest.fixture
def forbidden(monkeypatch):
    """Let models and pictures be opened by nobody."""

    def fail(*_, **__):
        raise AssertionError("a model was loaded or a picture was opened")

    monkeypatch.setattr("elf.taggers.backend.WDTagger", fail)
    monkeypatch.setattr("elf.modules.tagger.FlorenceCaptioner", fail)
    monkeypatch.setattr(Preprocess, "open", fail)
    monkeypatch.setattr(elf.caching.fileindex, "sha256_file", fail)
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: fail() if path.suffix == ".png" else real(path)
    )


def manifest(folder):
    return read_log(folder / "labels" / "manifest.jsonl")


def test_a_change_of_rules_loads_no_model_and_opens_no_picture(labelled, tiny_models, forbidden):
    before = manifest(labelled)
    summary = run(labelled, tiny_models, Rules(trigger="dryad", threshold=0.1))
    assert (summary.labelled, summary.cached) == (COUNT, COUNT)
    after = manifest(labelled)
    assert all(record["tags"][0] == "dryad" for record in after)
    for key in ("id", "width", "height", "caption", "rating"):
        assert [record[key] for record in before] == [record[key] for record in after]


def test_a_rerun_opens_no_unchanged_picture(labelled, tiny_models, forbidden):
    summary = run(labelled, tiny_models, skip_existing=True)
    assert (summary.labelled, summary.skipped) == (0, COUNT)


def test_labels_from_the_cache_are_those_of_the_models(labelled, tiny_models, first):
    data = (labelled / "labels" / "manifest.jsonl").read_bytes()
    run(labelled, tiny_models)
    assert (labelled / "labels" / "manifest.jsonl").read_bytes() == data
    shutil.rmtree(labelled / "labels")
    shutil.rmtree(labelled / "cache")
    run(labelled, tiny_models, threads=2)
    assert (labelled / "labels" / "manifest.jsonl").read_bytes() == data


def test_only_what_is_new_is_looked_at(labelled, tiny_models, monkeypatch):
    opened = []
    real = Preprocess.open
    monkeypatch.setattr(Preprocess, "open", lambda *args: opened.append(1) or real(*args))
    save(labelled / "raw" / "3-new.png", np.full((9, 9, 3), 7, np.uint8))
    summary = run(labelled, tiny_models)
    assert (summary.labelled, summary.cached, len(opened)) == (COUNT + 1, COUNT, 1)
    assert [record["path"] for record in manifest(labelled)][-1] == "3-new.png"


def test_a_changed_picture_is_a_new_one(labelled, tiny_models):
    save(labelled / "raw" / "0.png", np.full((9, 9, 3), 7, np.uint8))
    assert run(labelled, tiny_models, skip_existing=True).labelled == 1
    assert len(manifest(labelled)) == COUNT + 1


def test_captions_that_were_left_out_before_need_the_captioner_alone(
    labelled, tiny_models, monkeypatch
):
    shutil.rmtree(labelled / "cache")
    run(labelled, tiny_models, captions=False)

    def fail(*_, **__):
        raise AssertionError("the tagger was loaded")

    monkeypatch.setattr("elf.taggers.backend.WDTagger", fail)
    summary = run(labelled, tiny_models)
    assert (summary.labelled, summary.without_caption) == (COUNT, 0)


def test_another_model_is_asked_anew(labelled, tiny_models, tmp_path):
    shutil.copytree(tiny_models["tagger"], tmp_path / "tagger")
    model = tmp_path / "tagger" / "model.onnx"
    model.write_bytes(
        model.read_bytes() + b"\x1a\x00"
    )  # ModelProto.producer_version = "": the same network
    age(model)
    summary = run(labelled, {**tiny_models, "tagger": tmp_path / "tagger"})
    assert summary.cached == 0
    assert len(list((labelled / "cache").glob("wd-*"))) == 2


def test_a_caption_that_failed_for_the_moment_is_tried_again(labelled, tiny_models, monkeypatch):
    shutil.rmtree(labelled / "cache")

    def fail(*_, **__):
        raise RuntimeError("CUDA error")

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr("elf.taggers.FlorenceCaptioner.caption", fail)
        assert run(labelled, tiny_models).without_caption == COUNT
    assert {r["attributes"]["florence_status"] for r in manifest(labelled)} == {
        "failed: CUDA error"
    }
    summary = run(labelled, tiny_models)
    assert (summary.without_caption, summary.cached) == (0, 0)


def test_a_damaged_cache_is_filled_again(labelled, tiny_models):
    data = (labelled / "labels" / "manifest.jsonl").read_bytes()
    for segment in (labelled / "cache").rglob("*.segment"):
        broken = bytearray(segment.read_bytes())
        broken[len(broken) // 2] ^= 1
        segment.write_bytes(broken)
    summary = run(labelled, tiny_models)
    assert 0 < summary.cached < COUNT
    assert (labelled / "labels" / "manifest.jsonl").read_bytes() == data
    assert run(labelled, tiny_models).cached == COUNT


def test_the_embedding_is_kept_for_the_search_for_duplicates(first):
    from elf.taggers.store import OutputStore

    (key,) = (path.name for path in (first / "cache").glob("wd-*"))
    store = OutputStore(first / "cache", {"wd": key})
    rows = [store.scores(record["sha256"]).embedding for record in manifest(first)]
    store.close()
    assert len({row.tobytes() for row in rows}) == COUNT
    assert rows[0].dtype == np.float16 and rows[0].ndim == 1


def test_without_a_cache_folder_nothing_is_kept(tmp_path, tiny_models, first):
    shutil.copytree(first / "raw", tmp_path / "raw")
    module = TaggerModule(WDConfig(str(tiny_models["tagger"])))
    data = PictureFolder(str(tmp_path / "raw"), str(tmp_path / "labels"), None, workers=0)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, callbacks=[LabelWriter()],
                      enable_progress_bar=False, enable_checkpointing=False,
                      default_root_dir=tmp_path)  # fmt: skip
    trainer.predict(module, datamodule=data, return_predictions=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels", "raw"]
    assert len(manifest(tmp_path)) == COUNT
