import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from elf.errors import ElfError
from elf.modules.tagger import TaggerModule
from elf.taggers import FlorenceCaptioner, FlorenceConfig, Rules, WDConfig, WDTagger
from elf.taggers.florence import caption_each
from elf.taggers.outputs import CaptionOutput

COUNT = 8


@pytest.fixture
def module(tiny_models):
    return ready(
        TaggerModule(
            WDConfig(str(tiny_models["tagger"])),
            FlorenceConfig(str(tiny_models["captioner"]), max_new_tokens=8),
        )
    )


def ready(module):
    module.setup("predict")
    return module


def picture(number):
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (40, 60 + number, 3), dtype=np.uint8))


def batch(module, numbers, broken=()):
    items = [
        {"id": f"{number:016x}", "path": f"{number}.png", "sha256": "s", "width": 60 + number,
         "height": 40, "error": "damaged" if number in broken else "",
         "wants": () if number in broken else tuple(module.transform.parts)}
        for number in numbers
    ]  # fmt: skip
    rows = [module.transform(picture(number)) for number in numbers if number not in broken]
    pixels = {name: np.stack([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return {"items": items, "pixels": pixels}


def predict(module, size, count=COUNT):
    return [
        record
        for at in range(0, count, size)
        for record in module.predict_step(batch(module, range(at, min(at + size, count))), 0)
    ]


def test_a_record_holds_what_the_manifest_promises(module, tiny_models):
    (record,) = predict(module, 1, 1)
    assert list(record) == [
        *("id", "path", "sha256", "width", "height", "tags", "caption", "rating", "attributes")
    ]
    assert record["tags"][0] == "wood_elf" and len(record["tags"]) > 1
    assert record["caption"] == record["attributes"]["florence_caption"] != ""
    assert record["rating"] == record["attributes"]["rating"] != ""
    assert record["attributes"]["florence_status"] == "ok"
    assert record["attributes"]["wd"] == {
        "model": str(tiny_models["tagger"]),
        "provider": "CPUExecutionProvider",
        "preprocessing": module.transform.version,
    }
    scores = record["attributes"]["scores"]
    assert set(scores) <= set(record["tags"]) and all(0 < score <= 1 for score in scores.values())
    assert record["attributes"]["rules"] == module.select.version
    assert isinstance(record["attributes"]["dropped"], dict)
    assert record["attributes"]["florence"]["dtype"] == "float32"


def test_the_same_labels_at_batch_1_3_and_8(module):
    assert predict(module, 1) == predict(module, 3) == predict(module, 8)


def test_unusable_pictures_keep_their_places(module):
    records = module.predict_step(batch(module, [0, 1, 2], broken=[1]), 0)
    assert records[1] == {"id": f"{1:016x}", "path": "1.png", "sha256": "s", "reason": "damaged"}
    assert [records[0], records[2]] == [predict(module, 1, 3)[number] for number in (0, 2)]


def test_no_model_is_loaded_before_there_is_a_usable_picture(module, monkeypatch):
    pickle.loads(pickle.dumps(module.transform))(picture(0))
    module.predict_step(batch(module, [0], broken=[0]), 0)
    assert module.tagger is None and module.captioner is None
    module.predict_step(batch(module, [0]), 0)
    assert isinstance(module.tagger, WDTagger) and isinstance(module.captioner, FlorenceCaptioner)
    module.on_predict_end()
    assert module.tagger is None and module.captioner is None


def test_without_a_captioner(tiny_models):
    module = ready(TaggerModule(WDConfig(str(tiny_models["tagger"])), rules=Rules(trigger="x")))
    (record,) = predict(module, 1, 1)
    assert record["caption"] is None and record["tags"][0] == "x"
    assert record["attributes"]["florence_status"] == "off"
    assert "florence" not in record["attributes"]
    assert list(module.transform.parts) == ["wd"]


def test_a_captioner_that_is_missing_leaves_tags(tiny_models):
    module = TaggerModule(WDConfig(str(tiny_models["tagger"])), FlorenceConfig("./none"))
    with pytest.warns(UserWarning, match="labels will hold tags alone: captioner"):
        module.setup("predict")
    (record,) = predict(module, 1, 1)
    status = record["attributes"]["florence_status"]
    assert status.startswith(
        "unavailable: captioner (model.florence.model): no folder ./none; give"
    )
    assert record["caption"] is None and len(record["tags"]) > 1


def test_a_captioner_that_cannot_load_leaves_tags(module, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("elf.modules.tagger.FlorenceCaptioner", fail)
    with pytest.warns(UserWarning, match="labels will hold tags alone: CUDA out of memory"):
        records = predict(module, 2, 2)
    assert {record["attributes"]["florence_status"] for record in records} == {
        "unavailable: CUDA out of memory"
    }


def test_a_captioner_that_says_nothing_is_given_up_at_the_start(module, monkeypatch):
    asked = []

    def nothing(self, pixels):
        asked.append(len(pixels))
        return [""] * len(pixels)

    monkeypatch.setattr("elf.taggers.FlorenceCaptioner.caption", nothing)
    with pytest.warns(UserWarning, match="gave special tokens alone for a test picture; weights"):
        records = predict(module, 2, 4)
    assert asked == [1]
    assert all(
        record["attributes"]["florence_status"].startswith("unavailable: captioner")
        for record in records
    )


class Captioner(FlorenceCaptioner):
    """Fails on batches that hold a black picture; has nothing to say about white ones."""

    dtype = "float32"

    def __init__(self):
        """Load nothing."""

    def caption(self, pixels):
        if any(not row.any() for row in pixels):
            raise RuntimeError("black\nhole")
        return ["" if row.all() else f"{row.sum()}" for row in pixels]


def test_a_caption_that_fails_costs_no_other():
    pixels = np.zeros((3, 2, 2, 3), np.uint8)
    pixels[0, 0], pixels[2] = 1, 255
    assert caption_each(Captioner(), pixels) == [
        CaptionOutput("6", "ok", "float32"),
        CaptionOutput(None, "failed: black hole", "float32"),
        CaptionOutput(None, "failed: empty", "float32"),
    ]


def test_a_missing_tagger_is_an_error():
    with pytest.raises(ElfError, match=r"tagger \(model.wd.model\): no folder ./none; give an exi"):
        TaggerModule(WDConfig("./none")).setup("predict")
