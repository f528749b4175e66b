import numpy as np
import pytest
from lightning.pytorch import LightningModule, Trainer
from PIL import Image

from elf.datamodules.images import PictureFolder
from elf.errors import ElfError
from elf.files import AppendLog
from elf.images import picture_id
from elf.taggers import Preprocess, WDPreprocess


class Recorder(LightningModule):
    """Takes pictures and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.transform = Preprocess({"wd": WDPreprocess(8)})
        self.batches = []

    def begin(self, batch):
        pass

    def missing(self, sha256):
        return ("wd",)

    def predict_step(self, batch, batch_idx):
        self.batches.append(batch)
        return []


def picture(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 4, 3), shade, np.uint8)).save(path)
    return picture_id(path.read_bytes())


def predict(tmp_path, module=None, **options):
    module = module or Recorder()
    options = {"batch_size": 2, "workers": 0, "cache": str(tmp_path / "cache")} | options
    data = PictureFolder(str(tmp_path / "raw"), str(tmp_path / "labels"), **options)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
                      enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.predict(module, datamodule=data, return_predictions=False)
    return data, module.batches


@pytest.fixture
def raw(tmp_path):
    for name, shade in {"b.png": 1, "a/z.png": 2, "c.png": 3}.items():
        picture(tmp_path / "raw" / name, shade)
    return tmp_path / "raw"


@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_come_sorted_with_their_facts(tmp_path, raw, workers):
    data, batches = predict(tmp_path, workers=workers)
    assert data.paths == ["a/z.png", "b.png", "c.png"]
    items = [item for batch in batches for item in batch["items"]]
    assert [item["path"] for item in items] == data.paths
    assert [len(batch["items"]) for batch in batches] == [2, 1]
    for item in items:
        data_ = (raw / item["path"]).read_bytes()
        assert item["id"] == picture_id(data_) == item["sha256"][:16]
        assert (item["width"], item["height"], item["error"]) == (4, 6, "")
    assert batches[0]["pixels"]["wd"].shape == (2, 8, 8, 3)
    assert batches[0]["pixels"]["wd"].dtype == np.uint8


def test_a_corrupt_picture_is_an_item_with_an_error(tmp_path, raw):
    (raw / "b.png").write_bytes((raw / "b.png").read_bytes()[:-30])
    _, batches = predict(tmp_path)
    assert [bool(item["error"]) for item in batches[0]["items"]] == [False, True]
    assert len(batches[0]["pixels"]["wd"]) == 1


def test_copies_are_left_out_and_reported(tmp_path, raw):
    (raw / "d.png").write_bytes((raw / "a" / "z.png").read_bytes())
    data, _ = predict(tmp_path)
    assert data.duplicates == {"d.png": "a/z.png"}
    assert "d.png" not in data.paths


def labelled(tmp_path, raw, *names):
    with AppendLog(tmp_path / "labels" / "manifest.jsonl") as log:
        log.append(*({"id": picture_id((raw / name).read_bytes())} for name in names))


def test_what_is_labelled_is_skipped_wherever_it_lies_now(tmp_path, raw):
    labelled(tmp_path, raw, "b.png", "a/z.png")
    (raw / "b.png").rename(raw / "moved.png")
    data, batches = predict(tmp_path)
    assert data.paths == ["c.png"] and data.skipped == 2
    assert len(batches) == 1


def test_all_labelled_gives_no_batch(tmp_path, raw):
    labelled(tmp_path, raw, "b.png", "a/z.png", "c.png")
    data, batches = predict(tmp_path)
    assert data.skipped == 3 and batches == []


def test_no_skip_existing_labels_all(tmp_path, raw):
    labelled(tmp_path, raw, "b.png")
    data, _ = predict(tmp_path, skip_existing=False)
    assert data.skipped == 0 and len(data.paths) == 3


def test_a_torn_manifest_counts_up_to_the_tear(tmp_path, raw):
    labelled(tmp_path, raw, "b.png", "c.png")
    path = tmp_path / "labels" / "manifest.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    data, _ = predict(tmp_path)
    assert data.paths == ["a/z.png", "c.png"]
    assert path.read_bytes().endswith(b"\n") is False  # only the writer mends it


def test_a_missing_folder(tmp_path):
    with pytest.raises(ElfError, match=r"data.root: no folder .*raw; give an existing folder of p"):
        predict(tmp_path)


def test_an_empty_folder(tmp_path):
    (tmp_path / "raw" / "empty").mkdir(parents=True)
    with pytest.raises(ElfError, match=r"data.root: .*raw is empty; put pictures \(.bmp, .gif, .j"):
        predict(tmp_path)


def test_a_folder_of_other_things(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("a.txt", "b.csv"):
        (tmp_path / "raw" / name).touch()
    with pytest.raises(ElfError, match=r"data.root: .*raw holds 2 files but no picture; put pict"):
        predict(tmp_path)


def test_a_module_that_takes_no_pictures(tmp_path, raw):
    class Other(LightningModule):
        def predict_step(self, batch, batch_idx):
            return []

    with pytest.raises(ElfError, match=r"model.class_path: Other cannot tag pictures; take Tagger"):
        predict(tmp_path, Other())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, r"data.batch_size: 0 is below 1"),
        ({"workers": -1}, r"data.workers: -1 is negative; 0 decodes in the main thread"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ElfError, match=message):
        PictureFolder(**settings)
