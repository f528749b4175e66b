import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import elf.preparation.prepare as prepare_module
from elf.bases import open_base
from elf.errors import ElfError
from elf.images import decode, picture_id
from elf.preparation.caches import text_key
from elf.preparation.prepare import prepare
from elf.preparation.prepared import read_prepared
from elf.preparation.settings import Settings
from elf.preparation.shards import Reader, read_index
from elf.preparation.shardset import KINDS
from elf.preparation.splitting import held_out

SETTINGS = Settings(resolution=64, bucket_step=8, held_out=0.2)
ALL = replace(SETTINGS, held_out=0.0)
SIZES = [(64, 64), (96, 96), (120, 60), (60, 130), (200, 150), (64, 64), (33, 90), (100, 101)]


def picture(number, size, **options):
    """A smooth picture, as bytes of a file."""
    draw = np.random.default_rng(number)
    small = Image.fromarray(draw.integers(0, 256, (4, 4, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).save(buffer, **({"format": "PNG"} | options))
    return buffer.getvalue()


class Project:
    """A folder with pictures, labels and shards."""

    def __init__(self, root):
        self.root = root
        (root / "labels").mkdir(parents=True)
        (root / "raw").mkdir()

    def add(self, data, path, tags="tok, cat", caption="A cat."):
        file = self.root / "raw" / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        name = picture_id(data)
        self.label(name, tags)
        record = {"id": name, "path": path, "caption": caption, "tags": tags.split(", ")}
        with open(self.root / "labels/manifest.jsonl", "a") as manifest:
            manifest.write(json.dumps(record) + "\n")
        return name

    def label(self, name, tags):
        (self.root / f"labels/{name}.txt").write_text(tags + "\n")

    def prepare(self, encoder, settings=SETTINGS, **options):
        return prepare(
            encoder, settings, self.root / "raw", self.root / "labels", self.shards, **options
        )

    @property
    def shards(self):
        return self.root / "shards"

    def files(self):
        """The bytes of everything that was prepared (notes and locks are hidden files)."""
        paths = sorted(path for path in self.shards.iterdir() if path.name[0] != ".")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def samples(self, kind):
        reader, found = Reader(self.shards), {}
        for tar in sorted(self.shards.glob(f"{kind}-*.tar")):
            for entry in read_index(tar).entries:
                members = {k: reader(tar.name, *where) for k, where in entry.members.items()}
                found[entry.key] = (members, entry.meta)
        return found


class Counting:
    """The real encoder, with a record of what it was asked for."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.latent_factor = encoder.latent_factor
        self.pictures, self.captions = 0, []

    def encode_pictures(self, pixels):
        assert pixels.dtype == torch.float32 and -1 <= pixels.min() and pixels.max() <= 1
        self.pictures += len(pixels)
        return self.encoder.encode_pictures(pixels)

    def encode_captions(self, captions):
        self.captions += captions
        return self.encoder.encode_captions(captions)

    def fingerprints(self):
        return self.encoder.fingerprints()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    from elf.tiny.base import build

    return open_base(str(build(tmp_path_factory.mktemp("base"))))


@pytest.fixture(scope="session")
def real_encoder(base):
    return base.encoder(torch.device("cpu"))


@pytest.fixture
def encoder(real_encoder):
    return Counting(real_encoder)


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path)
    for number, size in enumerate(SIZES):
        project.add(picture(number, size), f"{number}.png", f"tok, number {number % 3}")
    return project


def test_pictures_are_brought_to_their_buckets(project, encoder, capsys):
    summary = project.prepare(encoder)
    assert (summary.pictures, summary.held_out) == (len(SIZES) - summary.held_out, summary.held_out)
    assert summary.held_out >= 1 and sum(summary.buckets.values()) == len(SIZES)
    samples = project.samples("train") | project.samples("heldout")
    assert len(samples) == len(SIZES)
    for members, meta in samples.values():
        assert decode(members["png"]).size == tuple(meta["bucket"])
        assert members["txt"].decode() == meta["caption"]
        assert json.loads(members["json"]) == meta
        covers = [big >= small for big, small in zip(meta["resized"], meta["bucket"], strict=True)]
        assert all(covers)
    printed = capsys.readouterr().out
    assert f"{summary.pictures} to train on, {summary.held_out} held out" in printed
    assert "64×64: 4" in printed and "crop loss" in printed


def test_a_picture_of_the_right_size_is_passed_through_byte_for_byte(tmp_path, encoder):
    project = Project(tmp_path)
    jpeg, webp = picture(1, (64, 64), format="JPEG"), picture(2, (64, 64), format="WEBP")
    turned = Image.Exif()
    turned[0x0112] = 6
    sideways = picture(3, (64, 64), format="JPEG", exif=turned)
    names = [project.add(data, f"{n}.x.jpg") for n, data in enumerate((jpeg, webp, sideways))]
    # nobody can read these data, so nobody turns the picture by them
    broken = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 500) + b"\xff" * 30
    odd = picture(4, (64, 64), format="JPEG", exif=broken)
    odd_name = project.add(odd, "odd.jpg")
    project.prepare(encoder, ALL)
    samples = project.samples("train")
    assert samples[odd_name][0]["jpg"] == odd
    assert samples[names[0]][0]["jpg"] == jpeg and samples[names[1]][0]["webp"] == webp
    assert decode(samples[names[2]][0]["png"]).tobytes() == decode(sideways).tobytes()


def exact(**options):
    """A file of the bucket's size that must not be passed through all the same."""
    mode, form = options.pop("mode", "RGB"), options.pop("format", "JPEG")
    buffer = io.BytesIO()
    frames = [Image.new(mode, (64, 64), value) for value in options.pop("frames", [100])]
    more = {"save_all": True, "append_images": frames[1:]} if frames[1:] else {}
    frames[0].save(buffer, form, **more, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        exact(mode="L"), exact(mode="CMYK"), exact(format="GIF", mode="P"), exact(format="BMP"),
        exact(format="WEBP", frames=[1, 200], lossless=True), exact(format="PNG", mode="RGBA"),
        exact(format="PNG", mode="I;16"), exact(format="PNG", transparency=(100, 0, 0)),
        exact(exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\3\0\0\0\0\0\0\0"),
    ],
    ids=["grey", "cmyk", "gif", "bmp", "animated", "alpha", "16bit", "keyed", "turned"],
)  # fmt: skip
def test_only_upright_still_rgb_is_passed_through(tmp_path, encoder, data):
    project = Project(tmp_path)
    name = project.add(data, "exact.bin.png")
    project.prepare(encoder, ALL)
    members, meta = project.samples("train")[name]
    assert meta["bucket"] == meta["resized"] == [64, 64]
    assert set(members) == {"png", "txt", "json"} and members["png"] != data
    assert (np.asarray(decode(members["png"])) == np.asarray(decode(data))).all()


@pytest.mark.parametrize(("kind", "suffix"), [("webp", "webp"), ("jpg", "jpg")])
def test_resized_pictures_are_stored_as_asked(project, encoder, kind, suffix):
    changed = replace(ALL, picture_format=kind)
    project.prepare(encoder, changed)
    suffixes = [set(members) for members, _ in project.samples("train").values()]
    assert {suffix, "txt", "json"} in suffixes


def test_the_crop_is_the_centre_of_the_resized_picture(tmp_path, encoder):
    project = Project(tmp_path)
    image = Image.new("RGB", (400, 100), "red")
    image.paste("blue", (100, 0, 300, 100))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    name = project.add(buffer.getvalue(), "wide.png")
    settings = replace(ALL, min_side=64, max_side=64)
    project.prepare(encoder, settings)
    members, meta = project.samples("train")[name]
    assert meta["resized"] == [256, 64] and meta["crop"] == [96, 0]
    pixels = np.asarray(decode(members["png"]))
    assert (pixels == (0, 0, 255)).all()


def test_caches_hold_what_the_models_give(project, encoder, real_encoder):
    project.prepare(encoder, batch_size=1)
    found = read_prepared(project.shards, SETTINGS)
    reader = Reader(project.shards)
    pictures = project.samples("train")
    assert len(found.train) == len(pictures)
    for example in found.train:
        members, meta = pictures[example.id]
        pixels = torch.from_numpy(np.asarray(decode(members["png"])).copy())
        pixels = pixels.permute(2, 0, 1)[None].float() / 127.5 - 1
        mean, std = real_encoder.encode_pictures(pixels)
        cached = example.latent.read(reader)
        np.testing.assert_allclose(cached[0], mean[0], rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(cached[1], std[0], rtol=1e-3, atol=1e-6)
        assert example.size == (meta["bucket"][1], meta["bucket"][0])
        assert example.captions.drawn(None) == meta["caption"]
        for caption in (meta["caption"], ""):
            text = real_encoder.encode_captions([caption])["text"][0]
            cached = found.texts[text_key(caption)]["text"].read(reader)
            np.testing.assert_allclose(cached, text, rtol=1e-3, atol=1e-3)
    assert sorted(encoder.captions) == ["", *(f"tok, number {n}" for n in range(3))]


@pytest.mark.parametrize(
    ("kind", "caption"),
    [("tags", "tok, dog"), ("sentence", "A dog."), ("both", "tok, dog, A dog.")],
)
def test_captions_are_tags_sentences_or_both(tmp_path, encoder, kind, caption):
    project = Project(tmp_path)
    name = project.add(picture(0, (64, 64)), "a.png", "tok,  dog", "A\ndog.")
    project.prepare(encoder, replace(ALL, caption=kind))
    assert project.samples("train")[name][1]["caption"] == caption


def test_captions_are_cached_without_the_trigger_too(project, encoder, real_encoder):
    project.prepare(encoder, replace(SETTINGS, trigger="tok"))
    numbers = [f"number {n}" for n in range(3)]
    assert sorted(encoder.captions) == ["", *numbers, *(f"tok, {n}" for n in numbers)]
    found = read_prepared(project.shards, replace(SETTINGS, trigger="tok"))
    captions = {name: meta["caption"] for name, (_, meta) in project.samples("train").items()}
    reader = Reader(project.shards)
    for example in found.train:
        plain = captions[example.id].removeprefix("tok, ")
        state = real_encoder.encode_captions([plain])["text"][0]
        cached = found.texts[text_key(plain)]["text"].read(reader)
        np.testing.assert_allclose(cached, state, rtol=1e-3, atol=1e-3)
    without = project.prepare(encoder, SETTINGS)
    assert without.captions == 0  # what is there already is not made again
    assert len(read_prepared(project.shards, SETTINGS).texts) == 1 + 3


def test_a_trigger_that_no_caption_holds_is_refused(project, encoder):
    message = (
        r"data\.trigger: no caption holds 'tock' \(one is 'tok, number \d'\); name the trigger"
    )
    with pytest.raises(ElfError, match=message):
        project.prepare(encoder, replace(SETTINGS, trigger="tock"))


def test_captions_without_the_trigger_are_told(project, encoder):
    label = next((project.root / "labels").glob("*.txt"))
    label.write_text(label.read_text().replace("tok, ", ""))
    message = (
        r"data\.trigger: of \d captions, 1 has no 'tok' \(the first is of \S+\.png\): what those "
        "pictures show is learnt without it"
    )
    with pytest.warns(UserWarning, match=message):
        project.prepare(encoder, replace(SETTINGS, trigger="tok"))


def test_without_upscaling_small_pictures_keep_their_pixels(tmp_path, encoder):
    project = Project(tmp_path)
    small, large = (
        project.add(picture(1, (50, 42)), "a.png"),
        project.add(picture(2, (200, 90)), "b.png"),
    )
    project.add(picture(3, (7, 90)), "thin.png")
    summary = project.prepare(encoder, replace(ALL, no_upscale=True))
    samples = project.samples("train")
    members, meta = samples[small]
    assert (meta["resized"], meta["bucket"], meta["crop"]) == ([50, 42], [48, 40], [1, 1])
    pixels = np.asarray(decode(picture(1, (50, 42))))[1:41, 1:49]
    assert (np.asarray(decode(members["png"])) == pixels).all()
    assert samples[large][1]["bucket"] == [88, 40] and samples[large][1]["resized"] == [89, 40]
    assert [drop.path for drop in summary.dropped] == ["thin.png"]
    assert summary.dropped[0].reason.startswith("7×90 px: a side is shorter than data.bucket_step")
    read_prepared(project.shards, replace(ALL, no_upscale=True))
    message = r"prepared with data\.no_upscale=True, this config says False"
    with pytest.raises(ElfError, match=message):
        read_prepared(project.shards, ALL)


def test_limits_that_do_not_count_are_said(project, encoder):
    for key in ("min_side", "max_side"):
        settings = replace(ALL, no_upscale=True, **{key: 64})
        message = rf"data\.{key} 64 does not count with data\.no_upscale: set it to null"
        with pytest.warns(UserWarning, match=message):
            project.prepare(encoder, settings)


def test_what_a_longest_side_costs_is_said_with_the_figure(project, encoder):
    message = (
        r"data\.max_side 64 costs area: 4 of 8 pictures train at up to 47% fewer pixels than with "
        r"data\.max_side 128"
    )
    with pytest.warns(UserWarning, match=message):
        project.prepare(encoder, replace(ALL, max_side=64))


# --- a second run -------------------------------------------------------------------------------


def test_a_second_run_encodes_nothing_and_leaves_every_byte(project, encoder):
    project.prepare(encoder)
    before = project.files()
    times = {path: path.stat().st_mtime_ns for path in project.shards.glob("[!.]*")}
    encoder.pictures, encoder.captions = 0, []
    summary = project.prepare(encoder)
    assert (encoder.pictures, encoder.captions) == (0, [])
    assert (summary.rendered, summary.latents, summary.captions) == (0, 0, 0)
    assert project.files() == before
    assert times == {path: path.stat().st_mtime_ns for path in project.shards.glob("[!.]*")}


def test_a_changed_label_redoes_only_that(project, encoder):
    project.prepare(encoder)
    latents = {k: v for k, v in project.files().items() if k.startswith("latents-")}
    encoder.pictures, encoder.captions = 0, []
    name = next(iter(project.samples("train")))
    project.label(name, "tok, something new")
    summary = project.prepare(encoder)
    assert encoder.pictures == 0 and encoder.captions == ["tok, something new"]
    assert (summary.rendered, summary.latents, summary.captions) == (1, 0, 1)
    assert latents == {k: v for k, v in project.files().items() if k.startswith("latents-")}
    assert project.samples("train")[name][1]["caption"] == "tok, something new"


def test_a_new_picture_is_added_and_the_others_are_copied(project, encoder):
    project.prepare(encoder)
    encoder.pictures = 0
    project.add(picture(99, (70, 50)), "new.png")
    project.prepare(encoder)
    assert encoder.pictures == 1
    clean = Project(project.root / "clean")
    for number, size in enumerate(SIZES):
        clean.add(picture(number, size), f"{number}.png", f"tok, number {number % 3}")
    clean.add(picture(99, (70, 50)), "new.png")
    clean.prepare(encoder)
    # all but the bits of the latents, which depend on the pictures that share an encoder's batch
    for kind in ("train", "heldout"):
        assert clean.samples(kind) == project.samples(kind)
    assert clean.samples("latents").keys() == project.samples("latents").keys()


def test_a_shards_folder_that_grows_is_split_without_encoding_again(project, encoder):
    project.prepare(encoder)
    samples = {kind: project.samples(kind) for kind in ("train", "heldout", "latents", "captions")}
    encoder.pictures, encoder.captions = 0, []
    (project.shards / "mine.tar").write_bytes(b"not ours to delete")
    small = Settings(resolution=64, bucket_step=8, held_out=0.2, shard_size=2)
    project.prepare(encoder, small)
    assert encoder.pictures == 0 and not encoder.captions
    assert {kind: project.samples(kind) for kind in samples} == samples
    names = [path.name for path in project.shards.glob("latents-*.tar")]
    assert sorted(names) == [f"latents-0000{n}-of-00004.tar" for n in range(4)]
    assert (project.shards / "mine.tar").exists()
    read_prepared(project.shards, small)


def test_another_resolution_or_model_makes_the_caches_stale(project, encoder, monkeypatch):
    project.prepare(encoder)
    encoder.pictures = 0
    larger = Settings(resolution=96, bucket_step=8, held_out=0.2)
    project.prepare(encoder, larger)
    assert encoder.pictures == len(SIZES)
    with pytest.raises(ElfError, match=r"data\.resolution=96, this config says 64"):
        read_prepared(project.shards, SETTINGS)
    encoder.pictures, encoder.captions = 0, []
    monkeypatch.setattr(encoder, "fingerprints", lambda: {"vae": "new", "text": "same"})
    project.prepare(encoder, larger)
    assert encoder.pictures == len(SIZES) and len(encoder.captions) == 4
    encoder.pictures, encoder.captions = 0, []
    monkeypatch.setattr(encoder, "fingerprints", lambda: {"vae": "new", "text": "other"})
    project.prepare(encoder, larger)
    assert encoder.pictures == 0 and len(encoder.captions) == 4


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "index", "prepared"])
def test_what_is_damaged_is_made_again(project, encoder, damage):
    project.prepare(encoder)
    before = project.files()
    tar = next(project.shards.glob("latents-*.tar"))
    if damage == "flip":
        data = bytearray(tar.read_bytes())
        data[700] ^= 4
        tar.write_bytes(data)
    elif damage == "truncate":
        os.truncate(tar, 2048)
    elif damage == "delete":
        tar.unlink()
    elif damage == "index":
        tar.with_suffix(".index.json").write_bytes(b"{}")
    else:
        (project.shards / "prepared.json").write_bytes(b"{}")
    project.prepare(encoder)
    assert project.files() == before


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.fault(12)
def test_bad_pictures_are_dropped_with_a_reason_and_counted(project, encoder, capsys):
    project.add(b"no picture at all", "broken.png")
    cut = picture(50, (80, 80))
    project.add(cut[: len(cut) // 2], "cut.png")
    project.add(picture(51, (80, 80)), "gone.png")
    (project.root / "raw/gone.png").unlink()
    project.add(picture(52, (80, 80)), "edited.png")
    (project.root / "raw/edited.png").write_bytes(picture(53, (80, 80)))
    project.add(picture(54, (80, 80)), "blank.png", "")
    (project.root / "raw/new.png").write_bytes(picture(55, (80, 80)))
    (project.root / "raw/twin.png").write_bytes(picture(0, SIZES[0]))
    outside = {"id": "a" * 16, "path": "../secret.png", "caption": ""}
    with open(project.root / "labels/manifest.jsonl", "a") as manifest:
        manifest.write(json.dumps(outside) + "\n" + '{"id": "torn')
    summary = project.prepare(encoder)
    reasons = {drop.path: drop.reason for drop in summary.dropped}
    assert summary.pictures + summary.held_out == len(SIZES)
    assert reasons.pop("broken.png").startswith("not a picture of a known format")
    assert reasons.pop("cut.png").startswith("damaged (")
    assert reasons == {
        "gone.png": "unreadable (No such file or directory)",
        "edited.png": "changed since it was labelled: run `elf predict` again",
        "blank.png": "no caption of kind 'tags'",
        "new.png": "not labelled",
        "twin.png": "the same picture twice",
        "../secret.png": "its path leads out of the pictures' folder",
    }
    printed = capsys.readouterr().out
    assert "dropped    8" in printed and "gone.png: unreadable" in printed


def test_pictures_that_are_cut_behind_their_headers_cost_one_more_look_and_no_more(
    project, encoder, monkeypatch
):
    """Headers are believed until one is found wrong; the result is that of looking first."""
    cut = [picture(number, (80, 80)) for number in range(50, 53)]
    names = [project.add(data[: len(data) // 2], f"cut{n}.png") for n, data in enumerate(cut)]
    looked = []
    real = prepare_module.measure
    monkeypatch.setattr(
        prepare_module, "measure", lambda *args: looked.append(args[-1]) or real(*args)
    )
    summary = project.prepare(encoder)
    assert looked == [False, True]
    assert sorted(drop.path for drop in summary.dropped) == ["cut0.png", "cut1.png", "cut2.png"]
    files = project.files()
    project.prepare(encoder)
    assert project.files() == files
    clean = Project(project.root / "clean")
    for number, size in enumerate(SIZES):
        clean.add(picture(number, size), f"{number}.png", f"tok, number {number % 3}")
    clean.prepare(encoder)
    assert clean.files() == files and not set(names) & project.samples("train").keys()


def test_a_passed_through_picture_is_whole(tmp_path, encoder):
    project = Project(tmp_path)
    good, bad = picture(1, (64, 64), format="JPEG"), picture(2, (64, 64), format="JPEG")
    project.add(good, "good.jpg")
    project.add(bad[: len(bad) // 2], "bad.jpg")
    assert [drop.path for drop in project.prepare(encoder, ALL).dropped] == ["bad.jpg"]


def test_a_picture_that_changes_while_it_is_prepared_is_no_silent_mixture(
    project, encoder, monkeypatch
):
    def change():
        (project.root / "raw/3.png").write_bytes(picture(99, (60, 130)))
        return encoder.encoder.fingerprints()

    monkeypatch.setattr(encoder, "fingerprints", change)
    message = r"^3\.png changed while it was prepared \(changed since it was labelled: .*\): run `"
    with pytest.raises(ElfError, match=message):
        project.prepare(encoder)


@pytest.mark.fault(6)
def test_a_shard_that_is_cut_before_its_latents_are_made_is_named(project, encoder):
    class Cutting(Counting):
        def encode_pictures(self, pixels):
            for tar in project.shards.glob("*-*.tar"):
                os.truncate(tar, 1024)
            return super().encode_pictures(pixels)

    message = r"train-00000-of-00001\.tar has changed \(unreadable .*was cut\)\): run `elf prepare`"
    with pytest.raises(ElfError, match=message):
        project.prepare(Cutting(encoder.encoder), ALL, batch_size=1)


def test_filters_of_warnings_are_left_as_they_were(project, encoder):
    before = list(warnings.filters)
    for _ in range(5):
        project.prepare(encoder, workers=4)
        shutil.rmtree(project.shards)
    assert warnings.filters == before


def test_no_labels_is_an_error_that_says_what_to_run(tmp_path, encoder):
    project = Project(tmp_path)
    with pytest.raises(ElfError, match=r"manifest\.jsonl is missing: run `elf predict` on the pic"):
        project.prepare(encoder)
    (tmp_path / "labels/manifest.jsonl").write_text("")
    with pytest.raises(ElfError, match=r"manifest\.jsonl is empty, so nothing is labelled: run"):
        project.prepare(encoder)


def test_a_manifest_line_without_an_id_is_named(project, encoder):
    path = project.root / "labels/manifest.jsonl"
    path.write_text('{"id": "../../x", "path": "a.png"}\n' + path.read_text())
    with pytest.raises(ElfError, match=r"manifest\.jsonl, line 1: no id or no path"):
        project.prepare(encoder)


def test_nothing_left_is_an_error_with_the_commonest_reason(tmp_path, encoder):
    project = Project(tmp_path)
    project.add(picture(0, (64, 64)), "a.png", "")
    for name in ("b.png", "c.png"):
        project.add(name.encode(), name)
        (tmp_path / "raw" / name).unlink()
    message = (
        r"^no picture is left to train on: all 3 were dropped, 2 of them \([bc]\.png first\) "
        r"because: unreadable \(No such file or directory\); mend that, or name other pictures$"
    )
    with pytest.raises(ElfError, match=message):
        project.prepare(encoder)


def test_a_step_that_does_not_suit_the_model_is_refused(project, encoder):
    with pytest.raises(ElfError, match=r"data\.bucket_step 6 is no multiple of 4, the pixels"):
        project.prepare(encoder, Settings(resolution=64, bucket_step=6))


def test_a_latent_that_is_not_finite_stops_with_the_pictures_name(project, real_encoder):
    class Overflowing(Counting):
        def encode_pictures(self, pixels):
            mean, std = super().encode_pictures(pixels)
            return mean * torch.where(mean == mean.max(), torch.inf, 1.0), std

    with pytest.raises(ElfError, match=r"^picture \d\.png \([0-9a-f]{16}\): the model gave values"):
        project.prepare(Overflowing(real_encoder))
    assert not (project.shards / "prepared.json").exists()


@pytest.mark.fault(8)
def test_a_second_writer_is_refused(project, encoder):
    from elf.files import FolderLock

    with FolderLock(project.shards), pytest.raises(ElfError, match=r"written by another process"):
        project.prepare(encoder)


# --- held out -----------------------------------------------------------------------------------


def ids(count, seed=0):
    draw = random.Random(seed)
    return sorted(f"{draw.getrandbits(64):016x}" for _ in range(count))


def test_the_held_out_share_is_about_as_asked_and_none_at_zero():
    names = ids(10_000)
    assert abs(len(held_out(names, 0.05)) - 500) < 70
    assert held_out(names, 0) == set()


def test_a_pictures_fate_does_not_depend_on_the_others():
    names = ids(1000)
    assert held_out(names[:500], 0.1) == held_out(names, 0.1) & set(names[:500])
    assert held_out(names, 0.1) <= held_out(names, 0.2)


def test_at_least_one_is_held_out_where_there_are_enough_and_one_is_trained_on():
    assert all(len(held_out(ids(8, seed), 1e-6)) == 1 for seed in range(20))
    assert held_out(ids(7), 1e-6) == set()
    assert len(held_out(ids(5), 1.0)) == 4


def files(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def test_one_thread_and_many_make_the_same_bytes(project, encoder):
    made = []
    for workers in (1, 4, 16):
        project.prepare(encoder, replace(SETTINGS, shard_size=3), workers=workers)
        made.append(files(project.shards))
        shutil.rmtree(project.shards)
    assert made[0] == made[1] == made[2]
    assert len(made[0]) > 10


@pytest.mark.fault(7)
@pytest.mark.skipif(sys.platform == "win32", reason="no file size limits")
def test_a_disk_that_is_full_is_one_line_and_a_rerun_completes(project, encoder):
    import resource

    project.prepare(encoder)
    whole = files(project.shards)
    shutil.rmtree(project.shards)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(map(len, whole.values()))
    for most in (100, largest // 2, largest - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            with pytest.raises(ElfError, match=r"shards: could not be written \(File too large"):
                project.prepare(encoder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert files(project.shards).items() <= whole.items()
    project.prepare(encoder)
    assert files(project.shards) == whole
    assert not list(project.shards.glob(".*.tmp"))


@pytest.mark.fault(5, 6)
@pytest.mark.parametrize("flips", [20, pytest.param(2_000, marks=pytest.mark.slow)])
def test_a_list_or_index_that_was_cut_or_changed_is_refused_and_made_again(
    project, encoder, flips, figures
):
    """Cut at every byte of a block's multiple, and any bit flipped: read never, mended always."""
    flips = figures.part(flips)
    project.prepare(encoder)
    whole, draw = files(project.shards), random.Random(0)
    damaged = [name for name in whole if name.endswith(".json")]
    assert len(damaged) > 4
    for name in damaged:
        path, good = project.shards / name, whole[name]
        cuts = [good[:size] for size in {*range(0, len(good), 512), len(good) - 1}]
        for _ in range(flips):
            at = draw.randrange(len(good))
            cuts.append(good[:at] + bytes([good[at] ^ 1 << draw.randrange(8)]) + good[at + 1 :])
        for bad in cuts:
            path.write_bytes(bad)
            with pytest.raises(ElfError, match=rf"{re.escape(name)}.* damaged|not the shard"):
                read_prepared(project.shards, SETTINGS)
        project.prepare(encoder)
        assert files(project.shards) == whole
    figures(flips_of_each=flips, missed=0)


# --- kill -9 ------------------------------------------------------------------------------------

CHILD = """
import sys, torch
from pathlib import Path
from elf.preparation.prepare import prepare
from elf.preparation.sets import PictureSet, fill_in
from elf.preparation.settings import Settings
torch.set_num_threads(1)

class Encoder:  # importing the real models takes longer than all the rest
    latent_factor = 8
    def encode_pictures(self, pixels):
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return mean, mean.abs()
    def encode_captions(self, captions):
        states = [[[float(len(caption))] * 8] * 8 for caption in captions]
        return {"text": torch.tensor(states), "pooled": torch.tensor(states)[:, 0]}
    def fingerprints(self):
        return {"vae": "a", "text": "b"}

root = Path(sys.argv[1])
sets = [
    PictureSet(str(root / "raw"), labels=str(root / "labels"), trigger="tok", flip=True,
               shuffle_tags=True, tag_dropout=0.2, caption_variants=3),
    PictureSet(tars=str(root / "class.tar"), regularisation=True),
]
settings = Settings(resolution=64, bucket_step=8, shard_size=8, held_out=0.1,
                    sets=fill_in(sets, "tags", None, 0.0))
import webdataset
for line in sys.stdin:  # a run at a time, so that the imports are paid for once
    prepare(Encoder(), settings, shards=root / line.strip(), batch_size=4, workers=2)
    print("done", flush=True)
"""


def child(root):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    return process


def run(process, folder):
    process.stdin.write(f"{folder}\n")
    process.stdin.flush()
    while (line := process.stdout.readline()) != "done\n":
        assert line
    return process


@pytest.mark.fault(2)
@pytest.mark.parametrize("kills", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_a_preparation_killed_at_any_moment_goes_on_to_the_same_bytes(tmp_path, kills, figures):
    kills = figures.part(kills)
    project = Project(tmp_path)
    for number in range(40):
        tags = f"tok, n{number}, cat, hat"
        project.add(picture(number, (70 + number, 64)), f"{number}.png", tags)
        if number % 2:
            mask = Image.new("L", (70 + number, 64), number + 1)
            mask.save(tmp_path / f"raw/{number}.mask.png")
    with tarfile.open(tmp_path / "class.tar", "w") as tar:
        for number in range(40, 48):
            for suffix, data in (("png", picture(number, (64, 90))), ("txt", b"a man")):
                info = tarfile.TarInfo(f"{number}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    steady = child(tmp_path)
    run(steady, "warm")  # the first run pays for lazy imports
    start = time.monotonic()
    run(steady, "clean")
    whole = time.monotonic() - start
    clean = files(tmp_path / "clean")
    assert {name.split("-")[0] for name in clean} == {*KINDS, "prepared.json"}
    draw, interrupted = random.Random(0), 0
    for number in range(kills):
        folder = tmp_path / f"killed{number}"
        victim = child(tmp_path)
        run(victim, "warm")
        victim.stdin.write(f"{folder.name}\n")
        victim.stdin.flush()
        time.sleep(whole * (number + draw.random()) / kills)
        os.kill(victim.pid, signal.SIGKILL)
        victim.communicate()
        left = files(folder)
        interrupted += 0 < len(left) < len(clean)
        assert left.items() <= clean.items(), "only whole files stand under final names"
        run(steady, folder.name)
        assert files(folder) == clean
        assert not list(folder.glob(".*.tmp"))
    assert interrupted or kills < 10
    figures(kills=kills, differing_bytes=0)
    steady.communicate()
