"""Tars that others wrote, as sources of pictures: whole, odd, hostile and damaged ones."""

import io
import json
import os
import pickle
import random
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from elf.datamodules.shards import ShardDataModule
from elf.errors import ElfError
from elf.images import picture_id
from elf.preparation.prepare import prepare
from elf.preparation.sets import PictureSet
from elf.preparation.shards import Reader, read_index
from elf.preparation.sources import load
from elf.preparation.tarsources import read_tars


def jpeg(number, size=(40, 30)):
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


def read(tars, **options):
    with ThreadPoolExecutor(2) as threads:
        return read_tars(PictureSet(tars=tars, **options), 1, threads)


def captions(tars, **options):
    return {source.path: source.caption for source in read(tars, **options)[0]}


def plain_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def img2dataset_shard(folder, number, count, failed=()):
    """A shard as img2dataset lays it out: sequential keys, .jpg, .txt, .json, and files beside."""
    import webdataset

    folder.mkdir(exist_ok=True)
    with webdataset.TarWriter(str(folder / f"{number:05d}.tar")) as writer:
        for index in range(count):
            if index in failed:
                continue  # what could not be fetched is not in the tar
            key = f"{number:05d}{index:04d}"
            about = {
                "caption": f"picture {index}", "url": "http://example.com/a.jpg", "key": key,
                "status": "success", "error_message": None, "width": 40, "height": 30,
                "original_width": 400, "original_height": 300, "exif": "{}", "sha256": "0" * 64,
            }  # fmt: skip
            writer.write(
                {
                    "__key__": key,
                    "jpg": jpeg(number * 100 + index),
                    "txt": about["caption"],
                    "json": about,
                }
            )
    (folder / f"{number:05d}_stats.json").write_text('{"count": 4}')
    (folder / f"{number:05d}.parquet").write_bytes(b"PAR1")


# --- whole tars -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")  # the library leaves files open
def test_what_the_webdataset_library_reads_is_what_is_found(tmp_path):
    import webdataset

    for number in range(3):
        img2dataset_shard(tmp_path / "laion", number, 5, failed=(number,))
    tars = sorted(str(path) for path in (tmp_path / "laion").glob("*.tar"))
    expected = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        expected[picture_id(sample["jpg"])] = (sample["jpg"], sample["txt"].decode())
    found, dropped = read(str(tmp_path / "laion/*.tar"))
    assert not dropped and len(found) == 12
    assert {s.id: (load(s), s.caption) for s in found} == expected
    assert [s.id for s in found] == sorted(expected) and {s.set for s in found} == {1}
    assert found == read(tars)[0], "a list of tars is as good as a glob"


def test_a_caption_is_the_text_or_else_the_jsons(tmp_path):
    about = json.dumps({"caption": "from  json"}).encode()
    members = [
        ("a.jpg", jpeg(0)), ("a.txt", b"from\ntext"), ("a.json", about),
        ("b.jpg", jpeg(1)), ("b.json", about),
        ("c.jpg", jpeg(2)), ("c.json", b'{"caption": 3}'),
        ("d.jpg", jpeg(3)),
        ("e.jpg", jpeg(4)), ("e.txt", b"\xff"),
        ("f.jpg", jpeg(5)), ("f.json", b'{"caption": "half \\ud83d"}'),
    ]  # fmt: skip
    tar = plain_tar(tmp_path / "x.tar", members)
    assert captions(tar) == {"x.tar/a": "from text", "x.tar/b": "from json"}
    reasons = {drop.path: drop.reason for drop in read(tar)[1]}
    assert reasons == {
        "x.tar/c": "no caption beside it",
        "x.tar/d": "no caption beside it",
        "x.tar/e": "its caption e.txt is not UTF-8",
        "x.tar/f": "its caption f.json is not UTF-8",
    }
    assert captions(tar, default_caption="a cat", trigger="tok") == {
        "x.tar/a": "tok, from text",
        "x.tar/b": "tok, from json",
        "x.tar/c": "tok, a cat",
        "x.tar/d": "tok, a cat",
    }


def test_labels_know_the_pictures_of_a_tar_by_their_content(tmp_path):
    tar = plain_tar(tmp_path / "x.tar", [(f"{n}.jpg", jpeg(n)) for n in range(3)])
    labels = tmp_path / "labels"
    labels.mkdir()
    names = [picture_id(jpeg(number)) for number in range(2)]
    lines = [json.dumps({"id": name, "path": "elsewhere.jpg", "tags": []}) for name in names]
    (labels / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    (labels / f"{names[0]}.txt").write_text("tok, cat\n")
    found, dropped = read(tar, labels=str(labels), caption="tags")
    assert [(s.path, s.caption) for s in found] == [("x.tar/0", "tok, cat")]
    assert {d.path: d.reason for d in dropped} == {
        "x.tar/1": "no caption of kind 'tags'",
        "x.tar/2": "not labelled",
    }


def test_a_plain_tar_of_a_folder_may_be_interleaved(tmp_path):
    folder = tmp_path / "set"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(["a", "sub/b", "sub/ä"]):
        (folder / f"{name}.JPG").write_bytes(jpeg(number))
        (folder / f"{name}.txt").write_text(f"number {number}")
    files = ["sub/ä.txt", "a.JPG", "sub/b.txt", "a.txt", "sub/ä.JPG", "sub/b.JPG"]
    subprocess.run(["tar", "-cf", tmp_path / "p.tar", "-C", folder, *files], check=True)
    assert captions(str(tmp_path / "p.tar")) == {
        "p.tar/a": "number 0",
        "p.tar/sub/b": "number 1",
        "p.tar/sub/ä": "number 2",
    }


def test_a_key_without_one_picture_is_dropped_with_what_it_has(tmp_path):
    members = [
        ("a.jpg", jpeg(0)), ("a.png", jpeg(1)), ("a.txt", b"x"),
        ("b.txt", b"x"),
        ("my.photo.jpg", jpeg(2)),
        ("twin.jpg", jpeg(4)), ("twin.txt", b"x"), ("twin2.jpg", jpeg(4)), ("twin2.txt", b"x"),
    ]  # fmt: skip
    found, dropped = read(plain_tar(tmp_path / "x.tar", members))
    assert [source.path for source in found] == ["x.tar/twin"]
    assert {drop.path: drop.reason for drop in dropped} == {
        "x.tar/a": "2 pictures under one key (it has jpg, png, txt)",
        "x.tar/b": "0 pictures under one key (it has txt)",
        "x.tar/my": "0 pictures under one key (it has photo.jpg)",
        "x.tar/twin2": "the same picture twice",
    }


def data_of(root, tars, **options):
    sets = [PictureSet(tars=tars, **options)]
    data = ShardDataModule(sets=sets, shards=str(root / "shards"), resolution=32, bucket_step=8,
                           held_out=0.2, workers=0, batch_size=2)  # fmt: skip
    return data


def test_tars_are_prepared_and_trained_on(tmp_path, pooling_encoder):
    for number in range(2):
        img2dataset_shard(tmp_path / "laion", number, 6)
    data = data_of(tmp_path, [str(tmp_path / "laion/*.tar")], repeats=2)
    summary = prepare(pooling_encoder, data.settings, shards=data.shards)
    assert summary.pictures + summary.held_out == 12 and summary.held_out >= 1
    ids = [name for batch in data.train_dataloader() for name in batch["id"]]
    assert set(ids) < {picture_id(jpeg(n * 100 + i)) for n in range(2) for i in range(6)}
    assert min(map(ids.count, set(ids))) == 2
    before = {path.name: path.read_bytes() for path in (tmp_path / "shards").glob("[!.]*")}
    again = prepare(pooling_encoder, data.settings, shards=data.shards)
    assert (again.rendered, again.latents, again.captions) == (0, 0, 0)
    assert {p.name: p.read_bytes() for p in (tmp_path / "shards").glob("[!.]*")} == before
    # the pictures stand in Elf's own shards, under their ids
    reader = Reader(tmp_path / "shards")
    for tar in (tmp_path / "shards").glob("train-*.tar"):
        for entry in read_index(tar).entries:
            assert reader(tar.name, *entry.members["txt"]).startswith(b"picture ")


def test_a_broken_picture_in_a_tar_is_dropped_by_name(tmp_path, pooling_encoder):
    members = [(f"{n}.{suffix}", data) for n in range(4)
               for suffix, data in (("jpg", jpeg(n)), ("txt", b"cat"))]  # fmt: skip
    members += [("bad.jpg", jpeg(9)[:300]), ("bad.txt", b"cat")]
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    members += [("bomb.png", bomb.getvalue()), ("bomb.txt", b"boom")]
    data = data_of(tmp_path, plain_tar(tmp_path / "x.tar", members))
    summary = prepare(pooling_encoder, data.settings, shards=data.shards)
    reasons = {drop.path: drop.reason for drop in summary.dropped}
    assert reasons.keys() == {"x.tar/bad", "x.tar/bomb"}
    assert reasons["x.tar/bad"].startswith("damaged (")
    assert reasons["x.tar/bomb"].startswith("more than ")


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    "tars", ["pipe:touch {}/ran", "s3://bucket/00000.tar", "https://example.com/a.tar"]
)
def test_urls_are_refused_and_no_command_is_run(tmp_path, tars, figures):
    message = (
        r"^data\.sets\[1\]\.tars: '.*' is no path; only tars on this machine's disks are read, "
        r"and no command is run: fetch them first$"
    )
    with pytest.raises(ElfError, match=message):
        read([str(tmp_path / "none.tar"), tars.format(tmp_path)][1:])
    assert not (tmp_path / "ran").exists()
    figures(executions=0)


def test_a_pattern_that_fits_nothing_is_named(tmp_path):
    with pytest.raises(
        ElfError, match=r"^data\.sets\[1\]\.tars: no file fits '.*/\*\.tar'; give others$"
    ):
        read([str(tmp_path / "*.tar")])
    with pytest.raises(ElfError, match=r"; for all tars of that folder give .*/\*\.tar$"):
        read([str(tmp_path)])


def test_tars_without_anything_known_are_named(tmp_path):
    tar = plain_tar(tmp_path / "x.tar", [("a.mp4", b"film")])
    with pytest.raises(ElfError, match=r"^data\.sets\[1\]\.tars: no pictures in .*x\.tar$"):
        read(tar)


def test_a_tar_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    tar = plain_tar(tmp_path / "x.tar", [("a.jpg", jpeg(0))])
    monkeypatch.setattr("elf.preparation.tarsources.scan", refuse)
    with pytest.raises(ElfError, match=r"x\.tar could not be read \(Permission denied\)$"):
        read(tar)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.fault(15)
def test_pickles_and_scripts_in_a_tar_are_never_run(tmp_path, pooling_encoder, figures):
    evil = pickle.dumps(Evil(tmp_path / "ran"))
    members = [("a.jpg", jpeg(0)), ("a.txt", b"cat")]
    members += [(f"a.{suffix}", evil) for suffix in ("pyd", "pkl", "pth", "pickle", "sh", "py")]
    data = data_of(tmp_path, plain_tar(tmp_path / "x.tar", members))
    prepare(pooling_encoder, data.settings, shards=data.shards)
    (tar,) = (tmp_path / "shards").glob("train-*.tar")
    assert {suffix for entry in read_index(tar).entries for suffix in entry.members} == {
        "png", "txt", "json",
    }  # fmt: skip
    assert not (tmp_path / "ran").exists()
    figures(executions=0)


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", ["../out.jpg", "/tmp/out.jpg", "a/../../out.jpg", "a/../b.jpg"])
def test_names_that_lead_out_are_refused_and_nothing_is_written(tmp_path, name):
    (tmp_path / "in").mkdir()
    tar = plain_tar(tmp_path / "in/x.tar", [(name, jpeg(0)), ("a.txt", b"cat")])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ElfError, match=r"x\.tar: '.*\.jpg' leads out of its folder$"):
        read(tar)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.fault(15)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ElfError, match=r"x\.tar: 'a\.jpg' is a link or no plain file$"):
        read(str(tmp_path / "x.tar"))


def test_names_that_would_command_a_terminal_are_shown_without(tmp_path):
    tar = plain_tar(tmp_path / "x.tar", [("\x1b[2J\nfake.jpg", jpeg(0)), ("a\udcff.jpg", jpeg(1))])
    assert [drop.path for drop in read(tar)[1]] == ["x.tar/?[2J?fake", "x.tar/a?"]


def test_a_tar_that_changes_while_it_is_read_is_no_silent_mixture(tmp_path):
    tar = plain_tar(tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.txt", b"cat")])
    (source,), _ = read(tar)
    plain_tar(tmp_path / "x.tar", [("a.jpg", jpeg(1)), ("a.txt", b"cat")])
    with pytest.raises(ValueError, match=r"^changed since it was labelled"):
        load(source)
    os.truncate(tar, 700)
    with pytest.raises(ValueError, match=r"^unreadable \(.*x\.tar was cut\)$"):
        load(source)


@pytest.mark.fault(14)
@pytest.mark.parametrize("count", [5000, pytest.param(500_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(7200)
def test_fuzzed_tars_give_the_one_error_or_sound_sources(tmp_path, count, figures):
    count = figures.part(count)
    tar = tmp_path / "x.tar"
    members = [("a.jpg", jpeg(0, (9, 7))), ("a.txt", b"a cat"), ("a.json", b'{"caption": "x"}'),
               ("b.jpg", jpeg(1, (9, 7))), ("b.json", b'{"caption": "a dog"}')]  # fmt: skip
    plain_tar(tar, members)
    whole = tar.read_bytes()[: 2 * 5 * 1024 + 1024]
    draw, sound = random.Random(7), 0
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 3, 30])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.2:
            del damaged[draw.randrange(len(damaged)) :]
        with open(tar, "r+b") as file:  # in place: to empty a file first takes a disk's time
            file.write(damaged)
            file.truncate()
        try:
            found, dropped = read(str(tar))
        except ElfError as error:
            assert "\n" not in str(error)
            continue
        sound += 1
        for source in found:
            assert picture_id(load(source)) == source.id and source.caption
        for drop in dropped:
            assert "\n" not in drop.path + drop.reason
    assert 0 < sound < count
    figures(files=count, other_errors=0)
