import json
from dataclasses import replace

import numpy as np
import pytest

from elf.errors import ElfError
from elf.preparation import caches
from elf.preparation.buckets import Placement
from elf.preparation.caches import latent_stamp, pack, text_key, text_stamp, unpack
from elf.preparation.prepared import read_prepared, write_prepared
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings
from elf.preparation.shards import Sample, index_path, read_index, write_shard

MODELS = {"vae": "v" * 64, "text": "t" * 64}
PLACED = Placement((64, 48), (64, 60), (0, 6), 0.2)


def test_arrays_come_back_within_half_precision():
    array = np.random.default_rng(0).normal(size=(2, 4, 6, 8)).astype(np.float32)
    array[1] = np.exp(array[1] * 3 - 8)  # standard deviations, from 1e-7 to 1
    back = unpack(pack(array, "x"), array.shape)
    assert back.dtype == np.float16
    np.testing.assert_allclose(back.astype(np.float32), array, rtol=2**-11, atol=3e-8)


def test_cached_files_are_plain_npy(tmp_path):
    (tmp_path / "a.npy").write_bytes(pack(np.ones((2, 3), np.float32), "x"))
    assert np.load(tmp_path / "a.npy").tolist() == [[1] * 3] * 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(value):
    with pytest.raises(ElfError, match=r"^picture a\.jpg: the model gave values that are not fin"):
        pack(np.array([1, value], np.float32), "picture a.jpg")


def test_what_does_not_fit_half_precision_is_refused_by_name():
    with pytest.raises(ElfError, match=r"^caption 'x': a value of 7e\+04 does not fit float16"):
        pack(np.array([-70_000], np.float32), "caption 'x'")


def test_a_stamp_depends_on_model_picture_resolution_and_crop():
    stamps = [
        latent_stamp("v", "a", PLACED),
        latent_stamp("w", "a", PLACED),
        latent_stamp("v", "b", PLACED),
        latent_stamp("v", "a", Placement((48, 64), (64, 60), (0, 6), 0.2)),
        latent_stamp("v", "a", Placement((64, 48), (64, 61), (0, 6), 0.2)),
        latent_stamp("v", "a", Placement((64, 48), (64, 60), (0, 7), 0.2)),
        text_stamp("v", "a"),
        text_stamp("w", "a"),
        text_stamp("v", "b"),
    ]
    assert len(set(stamps)) == len(stamps)
    assert stamps == sorted(set(stamps), key=stamps.index)


@pytest.fixture
def prepared(tmp_path):
    """A smallest preparation: one picture to train on, one held out, two captions and none."""

    def cached(key, member, shape, **meta):
        data = pack(np.full(shape, len(key), np.float32), key)
        return Sample(key, {member: data}, {"stamp": "s", "shape": shape, **meta})

    def picture(key, caption):
        meta = {"stamp": key, "width": 80, "height": 75, "bucket": [64, 48], "resized": [64, 60],
                "crop": [0, 6], "caption": caption}  # fmt: skip
        return Sample(key, {"png": b"p", "txt": caption.encode()}, meta)

    captions = sorted(["a cat", "a dog", ""], key=text_key)
    shards = {
        "train": [picture("a" * 16, "a cat")],
        "heldout": [picture("b" * 16, "a dog")],
        "latents": [cached(key * 16, "latent.npy", (2, 4, 6, 8)) for key in "ab"],
        "captions": [cached(text_key(text), "text.npy", (7, 5)) for text in captions],
    }
    tars = [tmp_path / f"{kind}-00000-of-00001.tar" for kind in shards]
    for tar, samples in zip(tars, shards.values(), strict=True):
        write_shard(tar, samples)
    write_prepared(tmp_path, Settings(), MODELS, tars)
    return tmp_path


def test_a_preparation_tells_training_where_everything_is(prepared):
    found = read_prepared(prepared, Settings())
    (example,) = found.train
    assert example.id == "a" * 16
    # (height, width) and (top, left), as SDXL's conditioning wants them
    assert (example.size, example.original_size, example.crop) == ((48, 64), (75, 80), (6, 0))
    assert example.latent.shape == (2, 4, 6, 8)
    assert {text["text"].shape for text in found.texts.values()} == {(7, 5)}
    assert [held.id for held in found.held_out] == ["b" * 16]
    assert example.captions.plain == "a cat" and found.held_out[0].captions.plain == "a dog"
    assert found.texts.keys() == {text_key(text) for text in ("a cat", "a dog", "")}


def test_training_does_not_need_the_pictures(prepared):
    (prepared / "train-00000-of-00001.tar").unlink()
    assert read_prepared(prepared, Settings()).train


def test_declaring_the_same_again_leaves_the_file_alone(prepared):
    before = (prepared / "prepared.json").stat()
    write_prepared(prepared, Settings(), MODELS, list(prepared.glob("*.tar")))
    after = (prepared / "prepared.json").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_nothing_prepared_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(ElfError, match=r"prepared\.json is missing: run `elf prepare --config …`"):
        read_prepared(tmp_path, Settings())


def test_other_settings_are_refused_with_both_values(prepared):
    with pytest.raises(
        ElfError,
        match=r"was prepared with data\.resolution=512, this config says 768: run `elf prepare",
    ):
        read_prepared(prepared, Settings(resolution=768))


@pytest.mark.parametrize("kind", ["train", "heldout", "latents", "captions"])
def test_a_shard_of_an_interrupted_preparation_is_refused(prepared, kind):
    tar = prepared / f"{kind}-00000-of-00001.tar"
    write_shard(tar, [Sample("c" * 16, {"txt": b"new"}, {"stamp": "new"})])
    with pytest.raises(ElfError, match=rf"{kind}-\S+ is not the shard that was prepared: run"):
        read_prepared(prepared, Settings())


@pytest.mark.parametrize("kind", ["latents", "captions"])
def test_a_damaged_cache_is_refused(prepared, kind):
    tar = prepared / f"{kind}-00000-of-00001.tar"
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(ElfError, match=rf"{kind}-\S+ is cut or damaged"):
        read_prepared(prepared, Settings())


def test_the_index_hash_is_of_what_is_trained_on(prepared):
    before = read_prepared(prepared, Settings()).index_hash
    tars = sorted(prepared.glob("*.tar"))

    def declared(models=MODELS):
        write_prepared(prepared, Settings(), models, tars)
        return read_prepared(prepared, Settings()).index_hash

    assert declared({**MODELS, "vae": "other"}) != before
    assert declared() == before
    held = prepared / "heldout-00000-of-00001.tar"
    index_path(held).unlink()
    write_shard(held, [])
    assert declared() == before, "held-out pictures may change"
    train = prepared / "train-00000-of-00001.tar"
    (entry,) = read_index(train).entries
    write_shard(train, [Sample(entry.key, {"png": b"p"}, {**entry.meta, "stamp": "recropped"})])
    assert declared() != before


def test_what_was_prepared_before_there_were_sets_is_still_right(prepared):
    """Else every folder were made anew, and no run could go on, for nothing."""
    assert latent_stamp("v", "a", PLACED) == "081bf67b33e5cddb"
    assert text_stamp("v", "a") == "3749d3b5d3aa3b45"
    assert read_prepared(prepared, Settings()).index_hash == "4b5943089b12bba5"
    assert list(Settings().record()) == [
        "resolution", "bucket_step", "min_side", "max_side", "held_out", "caption", "trigger",
        "picture_format", "shard_size",
    ]  # fmt: skip


def test_settings_come_back_from_what_is_written_down():
    sets = (PictureSet("a", labels="l", flip=True, repeats=3), PictureSet(tars=["b"], weight=0.5))
    settings = Settings(resolution=768, no_upscale=True, sets=sets)
    back = Settings.of_record(json.loads(json.dumps(settings.record())))
    assert back.difference(settings) is None and back.sets[0].flip
    assert settings.difference(replace(settings, no_upscale=False)) == ("no_upscale", True, False)
    plain = Settings(caption="sentence")
    assert plain.difference(settings) == ("sets", None, f"{len(settings.sets)} sets")


def test_a_hash_of_another_format_version_makes_everything_stale(monkeypatch):
    before = text_stamp("v", "a")
    monkeypatch.setattr(caches, "VERSION", 2)
    assert text_stamp("v", "a") != before
