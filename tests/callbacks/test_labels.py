import errno
import os

import numpy as np
import pytest
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from PIL import Image

from elf.callbacks.labels import LabelWriter
from elf.datamodules.images import PictureFolder
from elf.errors import ElfError
from elf.files import read_log
from elf.labels.manifest import LabelFolder
from elf.taggers import Preprocess, WDPreprocess


class Labeller(LightningModule):
    """Labels without a model: a picture's tag is its shade."""

    def __init__(self, status="ok", stop_at=None):
        super().__init__()
        self.transform = Preprocess({"wd": WDPreprocess(2)})
        self.status = status
        self.stop_at = stop_at

    def begin(self, batch):
        pass

    def missing(self, sha256):
        return ("wd",)

    def predict_step(self, batch, batch_idx):
        if batch_idx == self.stop_at:
            raise RuntimeError("stopped")
        rows = iter(batch["pixels"].get("wd", ()))
        return [
            {"id": item["id"], "path": item["path"], "reason": item["error"]}
            if item["error"]
            else {"id": item["id"], "path": item["path"], "tags": [str(next(rows).min())],
                  "attributes": {"florence_status": self.status}}
            for item in batch["items"]
        ]  # fmt: skip


def make_pictures(folder, count=6):
    folder.mkdir()
    for shade in range(count):
        Image.fromarray(np.full((2, 2, 3), shade, np.uint8)).save(folder / f"{shade:02}.png")


def run(tmp_path, module=None, data=None, bar=False, **options):
    writer = LabelWriter()
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, callbacks=[writer],
                      enable_progress_bar=bar, enable_checkpointing=False,
                      default_root_dir=tmp_path)  # fmt: skip
    options = {"batch_size": 2, "workers": 0, "cache": None} | options
    data = data or PictureFolder(str(tmp_path / "raw"), str(tmp_path / "labels"), **options)
    trainer.predict(module or Labeller(), datamodule=data, return_predictions=False)
    return writer.summary


def manifest(tmp_path):
    return read_log(tmp_path / "labels" / "manifest.jsonl")


def test_labels_manifest_and_summary(tmp_path, capsys):
    make_pictures(tmp_path / "raw")
    summary = run(tmp_path)
    assert [record["path"] for record in manifest(tmp_path)] == [f"{n:02}.png" for n in range(6)]
    for record in manifest(tmp_path):
        text = (tmp_path / "labels" / f"{record['id']}.txt").read_text()
        assert text == f"{int(record['path'][:2])}\n"
    assert (summary.labelled, summary.skipped, summary.total) == (6, 0, 6)
    assert "6 pictures labelled, 0 skipped (labelled before), 0 in q" in capsys.readouterr().out


def test_a_rerun_skips_and_an_added_picture_is_appended(tmp_path, capsys):
    make_pictures(tmp_path / "raw")
    run(tmp_path)
    before = (tmp_path / "labels" / "manifest.jsonl").read_bytes()
    summary = run(tmp_path)
    assert (summary.labelled, summary.skipped, summary.total) == (0, 6, 6)
    assert (tmp_path / "labels" / "manifest.jsonl").read_bytes() == before
    assert "0 pictures labelled, 6 skipped" in capsys.readouterr().out
    Image.new("RGB", (3, 3)).save(tmp_path / "raw" / "00-new.png")
    assert run(tmp_path).labelled == 1
    assert manifest(tmp_path)[-1]["path"] == "00-new.png"


def test_relabelling_changes_records_in_place(tmp_path):
    make_pictures(tmp_path / "raw")
    run(tmp_path)
    summary = run(tmp_path, Labeller("failed: empty"), skip_existing=False)
    assert (summary.labelled, summary.without_caption, summary.total) == (6, 6, 6)
    assert {r["attributes"]["florence_status"] for r in manifest(tmp_path)} == {"failed: empty"}
    assert len(manifest(tmp_path)) == 6


@pytest.mark.fault(12)
@pytest.mark.parametrize("number", range(3))
def test_corrupt_pictures_are_quarantined_and_tried_again(tmp_path, capsys, number):
    make_pictures(tmp_path / "raw", 3)
    path = tmp_path / "raw" / f"{number:02}.png"
    whole = path.read_bytes()
    path.write_bytes(b"broken")
    for _ in range(2):
        summary = run(tmp_path)
        assert summary.quarantined == 1
        (entry,) = read_log(tmp_path / "labels" / "quarantine.jsonl")
        assert entry["path"] == path.name
        assert entry["reason"].startswith("not a picture of a known format")
    assert "what is wrong with those in quarantine: " in capsys.readouterr().out
    path.write_bytes(whole)
    assert run(tmp_path).labelled == 1
    assert not (tmp_path / "labels" / "quarantine.jsonl").exists()


def test_copies_are_told(tmp_path, capsys):
    make_pictures(tmp_path / "raw", 2)
    (tmp_path / "raw" / "copy.png").write_bytes((tmp_path / "raw" / "00.png").read_bytes())
    assert run(tmp_path).labelled == 2
    assert "copy.png has the same bytes as 00.png: labelled once" in capsys.readouterr().out


def test_labels_with_tags_alone_are_counted(tmp_path, capsys):
    make_pictures(tmp_path / "raw", 2)
    assert run(tmp_path, Labeller("unavailable: why")).without_caption == 2
    assert "2 pictures labelled (2 with tags alone)" in capsys.readouterr().out


def test_an_error_in_the_middle_keeps_what_was_written_and_frees_the_folder(tmp_path):
    make_pictures(tmp_path / "raw")
    with pytest.raises(RuntimeError, match="stopped"):
        run(tmp_path, Labeller(stop_at=2))
    assert len(manifest(tmp_path)) == 4
    assert run(tmp_path).labelled == 2
    assert [record["path"] for record in manifest(tmp_path)] == [f"{n:02}.png" for n in range(6)]


@pytest.mark.fault(7)
def test_a_full_disk_stops_cleanly_and_a_rerun_completes(tmp_path, monkeypatch):
    make_pictures(tmp_path / "raw")
    real, calls = os.replace, []

    def replace(*args):
        calls.append(args)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        message = r"could not write \(No space left on device\); 2 labels are safe: make room, then"
        with pytest.raises(ElfError, match=message):
            run(tmp_path)
    assert len(manifest(tmp_path)) == 2  # the batches before it
    assert run(tmp_path).labelled == 4


@pytest.mark.fault(8)
def test_a_second_writer_is_refused_before_a_model_is_loaded(tmp_path):
    class Never(Labeller):
        def setup(self, stage):
            raise AssertionError("a model was loaded")

    make_pictures(tmp_path / "raw")
    labels = LabelFolder(tmp_path / "labels")
    with pytest.raises(ElfError, match="is being written by another process"):
        run(tmp_path, Never())
    labels.close()
    assert run(tmp_path).labelled == 6


def test_other_data_are_refused(tmp_path):
    class Other(LightningDataModule):
        pass

    with pytest.raises(ElfError, match=r"data.class_path: LabelWriter needs a folder of pictures"):
        run(tmp_path, data=Other())


def test_a_missing_folder_makes_no_labels_folder(tmp_path):
    with pytest.raises(ElfError, match=r"data.root: no folder"):
        run(tmp_path)
    assert not (tmp_path / "labels").exists()


def test_other_stages_write_nothing(tmp_path):
    LabelWriter().setup(Trainer(logger=False, accelerator="cpu"), Labeller(), "fit")
    LabelWriter().teardown(Trainer(logger=False, accelerator="cpu"), Labeller(), "fit")
    assert list(tmp_path.iterdir()) == []


def test_the_bar_counts_pictures_and_says_what_limits(tmp_path, capsys):
    make_pictures(tmp_path / "raw")
    run(tmp_path, bar=True)
    shown = capsys.readouterr().err
    assert "labelling: 100%" in shown and " pictures/s" in shown and "limited by " in shown
    assert "Predicting" not in shown
