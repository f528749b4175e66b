import hashlib
import io
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from elf.images import decode_small
from elf.reader import MAX_CACHED, PictureLoader, PictureReader, Task, collate, split
from elf.taggers import Preprocess, WDPreprocess

BOTH = {"wd": 8, "florence": 4}


def resize(image, names):
    return {name: np.asarray(image.resize((BOTH[name], BOTH[name]))) for name in names}


class Plain:
    """A transform that wants every pixel."""

    def __init__(self, function=resize):
        self.function = function

    def open(self, data, names):
        image, size = decode_small(data, None)
        return self.function(image, names), size


transform = Plain()


def jpeg(path, shade, size=(6, 4)):
    Image.new("RGB", size, (shade, shade, shade)).save(path, "JPEG")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tasks(tmp_path, count, wants=("wd",)):
    for number in range(count):
        jpeg(tmp_path / f"{number:03}.jpg", number)
    return [Task(f"{number:03}.jpg", "", wants) for number in range(count)]


def test_every_failure_becomes_an_item(tmp_path):
    digest = jpeg(tmp_path / "wrong-suffix.png", 3)
    (tmp_path / "bad.png").write_bytes(b"nope")
    (tmp_path / "folder.png").mkdir()
    names = ["wrong-suffix.png", "bad.png", "gone.png", "folder.png"]
    reader = PictureReader(str(tmp_path), transform)
    batch = collate([reader.read(Task(name, "", ("wd",))) for name in names])
    assert [item["error"] for item in batch["items"]] == [
        "",
        "not a picture of a known format (JPEG, PNG, WEBP, GIF, BMP)",
        "could not be read (No such file or directory)",
        "could not be read (Is a directory)",
    ]
    first, bad, gone, _ = batch["items"]
    assert (first["width"], first["height"], first["id"]) == (6, 4, digest[:16])
    assert bad["id"] == hashlib.sha256(b"nope").hexdigest()[:16] and gone["id"] == ""
    assert [item["wants"] for item in batch["items"]] == [("wd",), (), (), ()]
    assert batch["pixels"]["wd"].shape == (1, 8, 8, 3)


def test_a_batch_without_a_usable_picture_has_no_pixels(tmp_path):
    reader = PictureReader(str(tmp_path), transform)
    assert collate([reader.read(Task("gone.png", "", ("wd",)))])["pixels"] == {}


def test_a_picture_too_big_for_the_memory_is_an_item_too(tmp_path):
    def too_big(image, names):
        raise MemoryError

    jpeg(tmp_path / "a.jpg", 1)
    item, pixels = PictureReader(str(tmp_path), Plain(too_big)).read(Task("a.jpg", "", ("wd",)))
    assert item["error"] == "not enough memory for it" and pixels == {}


def test_a_picture_that_nobody_wants_is_not_opened(tmp_path):
    reader = PictureReader(str(tmp_path), transform)
    item, pixels = reader.read(Task("gone.jpg", "ab" * 32, ()))
    assert (item["error"], item["id"], pixels) == ("", "ab" * 8, {})


def test_each_model_gets_the_rows_that_it_wants(tmp_path):
    plan = [("wd",), ("wd", "florence"), (), ("florence",)]
    made = tasks(tmp_path, 4)
    made = [Task(task.path, "ab" * 32, wants) for task, wants in zip(made, plan, strict=True)]
    (batch,) = PictureLoader(PictureReader(str(tmp_path), transform), made, 8, 0)
    assert batch["pixels"]["wd"][:, 0, 0, 0].tolist() == [0, 1]
    assert batch["pixels"]["florence"][:, 0, 0, 0].tolist() == [1, 3]
    assert [item["wants"] for item in batch["items"]] == plan


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_is_that_of_the_tasks(tmp_path, workers):
    loader = PictureLoader(PictureReader(str(tmp_path), transform), tasks(tmp_path, 23), 4, workers)
    batches = list(loader)
    assert [len(batch["items"]) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert len(loader) == 6
    shades = [row[0, 0, 0] for batch in batches for row in batch["pixels"]["wd"]]
    assert np.abs(np.array(shades) - np.arange(23)).max() <= 1
    assert loader.waited > 0


def test_at_most_three_batches_are_held(tmp_path):
    read = []

    class Counting(PictureReader):
        def read(self, task):
            read.append(task.path)
            return super().read(task)

    loader = iter(PictureLoader(Counting(str(tmp_path), transform), tasks(tmp_path, 40), 4, 2))
    next(loader)
    assert len(read) <= 12
    loader.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_batches_are_limited_by_what_must_be_read():
    fresh, cached = Task("f", "", ("wd",)), Task("c", "ab" * 32, ())
    sizes = [len(batch) for batch in split([cached] * (2 * MAX_CACHED + 1), 8)]
    assert sizes == [MAX_CACHED, MAX_CACHED, 1]
    mixed = list(split([cached, fresh, cached, fresh, cached, fresh], 2))
    assert [[task.path for task in batch] for batch in mixed] == [list("cfcfc"), ["f"]]
    assert list(split([], 2)) == []


@pytest.mark.fault(15)
@pytest.mark.parametrize("workers", [0, 2])
def test_odd_metadata_is_no_reason_to_warn_and_a_bomb_is_refused(tmp_path, workers, monkeypatch):
    palette = Image.new("P", (8, 8))
    palette.info["transparency"] = bytes(range(256))
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    Image.new("RGB", (60, 60)).save(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    reader = PictureReader(str(tmp_path), transform)
    made = [Task("a.png", "", ("wd",)), Task("b.png", "", ("wd",))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (batch,) = PictureLoader(reader, made, 4, workers)
    good, bomb = batch["items"]
    assert good["error"] == ""
    assert bomb["error"].endswith("pixels: make it smaller")


def test_the_real_preprocessing_fits(tmp_path):
    reader = PictureReader(str(tmp_path), Preprocess({"wd": WDPreprocess(16)}))
    (batch,) = PictureLoader(reader, tasks(tmp_path, 2), 4, 0)
    assert batch["pixels"]["wd"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_two_batches_are_begun_before_the_one_in_front_is_handed_over(tmp_path, workers):
    made, events = tasks(tmp_path, 14), []
    reader = PictureReader(str(tmp_path), transform)
    loader = PictureLoader(
        reader, made, 4, workers, lambda batch: events.append(("begun", len(batch["items"])))
    )
    for batch in loader:
        events.append(("handed over", len(batch["items"])))
    begun, over = (("begun", 4), ("handed over", 4))
    last = [over, ("begun", 2), over, over, ("handed over", 2)]
    assert events == [begun, begun, begun, *last]
