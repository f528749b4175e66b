"""A predict loop whose tagger is run by torch, and what a GPU's run leaves for others."""

import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

import elf.taggers.wd_torch
from elf.callbacks.labels import LabelWriter
from elf.cli import main
from elf.datamodules.images import PictureFolder
from elf.files import read_log, sha256_file
from elf.modules.tagger import TaggerModule
from elf.quiet import silence_harmless_warnings
from elf.taggers import Preprocess, Rules, TorchTagger, WDConfig
from elf.tiny.timm_tagger import build

COUNT = 5


@pytest.fixture
def folder(tmp_path):
    silence_harmless_warnings()
    build(tmp_path / "tagger")
    (tmp_path / "raw").mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        pixels[:, : number * 8] = 40 * number
        Image.fromarray(pixels).save(tmp_path / "raw" / f"{number}.png")
    return tmp_path


def run(folder, rules=None, batch_size=2, **options):
    module = TaggerModule(WDConfig(str(folder / "tagger"), **options), rules=rules, decode="fast")
    writer = LabelWriter()
    data = PictureFolder(
        str(folder / "raw"), str(folder / "labels"), str(folder / "cache"),
        batch_size=batch_size, workers=0, skip_existing=False,
    )  # fmt: skip
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, callbacks=[writer],
                      enable_progress_bar=False, enable_checkpointing=False,
                      default_root_dir=folder)  # fmt: skip
    trainer.predict(module, datamodule=data, return_predictions=False)
    return writer.summary


@pytest.fixture
def on_cuda(monkeypatch):
    """Let the choice be made as on a GPU; the network itself runs here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(TaggerModule, "_trainers_device", "cuda:0")


def manifest(folder):
    return read_log(folder / "labels" / "manifest.jsonl")


def fail(*_, **__):
    raise AssertionError("a model was loaded")


def test_pictures_are_labelled_by_torch(folder, monkeypatch):
    assert run(folder, backend="torch").labelled == COUNT
    records = manifest(folder)
    assert [record["path"] for record in records] == [f"{number}.png" for number in range(COUNT)]
    weights = sha256_file(folder / "tagger" / "model.safetensors")
    for record in records:
        assert record["attributes"]["wd"] == {
            "model": str(folder / "tagger"),
            "provider": "torch cpu float32",
            "preprocessing": Preprocess({}, "fast").version,
            "sha256": weights[:16],
        }
        assert record["tags"][0] == "wood_elf" and len(record["tags"]) > 1
        assert record["rating"] in ("general", "sensitive", "questionable", "explicit")
        assert (folder / "labels" / f"{record['id']}.txt").read_text().startswith("wood_elf, ")
    monkeypatch.setattr("elf.taggers.backend.TorchTagger", fail)
    summary = run(folder, Rules(trigger="dryad", threshold=0.1), backend="torch")
    assert (summary.labelled, summary.cached) == (COUNT, COUNT)
    assert all(record["tags"][0] == "dryad" for record in manifest(folder))


def test_the_labels_do_not_depend_on_the_batch(folder, tmp_path):
    scores = []
    for size in (1, 3, 8):
        run(folder, batch_size=size, backend="torch")
        scores.append([record["attributes"]["scores"] for record in manifest(folder)[-COUNT:]])
        (folder / "cache").rename(folder / f"cache-{size}")
    for other in scores[1:]:
        for mine, theirs in zip(scores[0], other, strict=True):
            assert mine.keys() == theirs.keys()
            np.testing.assert_allclose(list(mine.values()), list(theirs.values()), atol=2e-4)


def test_each_number_format_has_scores_of_its_own(folder):
    run(folder, backend="torch")
    assert run(folder, backend="torch", dtype="float16").cached == 0
    assert run(folder, backend="torch", dtype="float16").cached == COUNT
    assert manifest(folder)[-1]["attributes"]["wd"]["provider"] == "torch cpu float16"
    assert len(list((folder / "cache").glob("wd-*"))) == 2


def test_a_format_that_the_network_does_not_bear_is_told_and_cached(folder, monkeypatch):
    monkeypatch.setitem(elf.taggers.wd_torch.LIMITS, "float16", 0)
    with pytest.warns(UserWarning, match="in float16 a probability differs by .* from float32's"):
        run(folder, backend="torch", dtype="float16")
    assert manifest(folder)[-1]["attributes"]["wd"]["provider"] == "torch cpu float32"
    monkeypatch.setattr("elf.taggers.backend.TorchTagger", fail)
    assert run(folder, backend="torch", dtype="float16").cached == COUNT


@pytest.mark.usefixtures("on_cuda")
def test_on_a_gpu_torch_is_taken_by_itself(folder, monkeypatch):
    made = []
    real = TorchTagger

    def make(*arguments):
        made.append(arguments)
        return real(*arguments)

    monkeypatch.setattr("elf.taggers.backend.TorchTagger", make)
    run(folder)
    assert made == [(folder / "tagger", "cpu", "float16", "auto", False)]
    assert manifest(folder)[0]["attributes"]["wd"]["provider"] == "torch cpu float16"


def explain(folder, key, *more):
    main([
        *("predict", "--config", "configs/tag/quickstart.yaml", "--explain", key),
        f"--data.root={folder / 'raw'}", f"--data.labels={folder / 'labels'}",
        f"--data.cache={folder / 'cache'}", f"--model.wd.model={folder / 'tagger'}",
        "--model.florence=null", "--model.rules.remove=[]", f"--trainer.default_root_dir={folder}",
        "--trainer.enable_progress_bar=false", "--model.decode=fast", *more,
    ])  # fmt: skip


def test_a_gpus_labels_are_explained_without_one(folder, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(TaggerModule, "_trainers_device", "cuda:0")
        run(folder)
    record = manifest(folder)[0]
    monkeypatch.setattr("elf.taggers.backend.TorchTagger", fail)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        explain(folder, record["id"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(record["id"])
    kept = [line[2:].split(": ")[0] for line in lines if line.startswith("+ ")]
    assert kept == record["tags"]


def test_scores_are_looked_for_in_every_cache_that_may_hold_them(folder):
    run(folder, backend="torch")  # float32, as on a machine without a GPU
    record = manifest(folder)[0]
    module = TaggerModule(WDConfig(str(folder / "tagger"), backend="torch"))
    _, scores, caption = module.recall(str(folder / "cache"), record["sha256"])
    assert scores.provider == "torch cpu float32" and caption is None
    _, scores, _ = module.recall(str(folder / "cache"), "0" * 64)
    assert scores is None
