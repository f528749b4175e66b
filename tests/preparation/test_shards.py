import io
import json
import os
import pickle
import random
import subprocess
import tarfile

import numpy as np
import pytest

from elf.checked import read_checked, write_checked
from elf.errors import ElfError
from elf.preparation.shards import (
    Reader,
    Sample,
    index_path,
    read_index,
    scan,
    verify,
    write_index,
    write_shard,
)
from elf.stamps import STAMPS


def samples(count=3, size=700):
    draw = np.random.default_rng(0)
    return [
        Sample(
            f"{number:016x}",
            {"jpg": draw.bytes(size), "txt": f"cat {number}".encode()},
            {"width": number},
        )
        for number in range(count)
    ]


def contents(folder, index):
    reader = Reader(folder)
    return {
        entry.key: {suffix: reader(index.tar, *where) for suffix, where in entry.members.items()}
        for entry in index.entries
    }


def expected(written):
    return {
        sample.key: {**sample.members, "json": b'{"width":%d}\n' % sample.meta["width"]}
        for sample in written
    }


def test_what_is_written_is_read_by_position(tmp_path):
    index = write_shard(tmp_path / "a.tar", samples(), "recipe")
    assert contents(tmp_path, index) == expected(samples())
    assert [entry.meta for entry in index.entries] == [{"width": n} for n in range(3)]
    assert read_index(tmp_path / "a.tar") == index and index.recipe == "recipe"


@pytest.mark.filterwarnings("ignore")  # the library leaves the file open
def test_the_webdataset_library_reads_our_shards(tmp_path):
    import webdataset

    write_shard(tmp_path / "a.tar", samples(50))
    dataset = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    read = {s["__key__"]: {k: v for k, v in s.items() if k[0] != "_"} for s in dataset}
    assert read == expected(samples(50))


def test_bytes_are_deterministic_and_nothing_else_is_left(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "x.tar", samples())
    for file in ("x.tar", "x.index.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(os.listdir(tmp_path / "a")) == ["x.index.json", "x.tar"]


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "a"], ["a.b"], ["a/b"]])
def test_keys_that_would_be_cut_or_confused_are_refused(tmp_path, keys):
    with pytest.raises(ValueError, match=r"a.tar: key '.*' after"):
        write_shard(tmp_path / "a.tar", [Sample(key, {"txt": b""}) for key in keys])
    assert os.listdir(tmp_path) == []


def test_a_shard_may_be_empty(tmp_path):
    assert write_shard(tmp_path / "a.tar", []).entries == []


def overwrite(path, data):
    """Write into a file without emptying it first, which takes a disk's time."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


# --- damage ---------------------------------------------------------------------------------


@pytest.mark.fault(6)
def test_a_shard_cut_at_any_block_is_refused_by_name(tmp_path, figures):
    tar = tmp_path / "small.tar"
    write_shard(tar, samples(), "")
    whole = tar.read_bytes()
    last = max(a + b for e in read_index(tar).entries for a, b in e.members.values())
    for size in range(0, len(whole), 512):
        tar.write_bytes(whole[:size])
        with pytest.raises(ElfError, match=r"small\.tar is cut or damaged \(\d+ bytes, its index"):
            verify([tar])
        if size < last + 1024:  # without an index too, unless only padding was cut
            with pytest.raises(ElfError, match=r"small\.tar is cut or damaged"):
                scan(tar)
    figures(cuts=len(whole) // 512, missed=0)


@pytest.mark.fault(5)
@pytest.mark.parametrize("flips", [1000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_shard_and_index_is_found(tmp_path, flips, figures):
    flips = figures.part(flips)
    tar = tmp_path / "small.tar"
    write_shard(tar, samples())
    verify([tar])  # the note it leaves must not hide later damage
    draw = random.Random(0)
    for path in (tar, index_path(tar)):
        whole = path.read_bytes()
        for _ in range(flips):
            damaged = bytearray(whole)
            damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            overwrite(path, damaged)
            with pytest.raises(ElfError, match=r"small\.(tar|index\.json) (is|was)"):
                verify([tar])
        path.write_bytes(whole)
    verify([tar])
    figures(flips_of_each=flips, missed=0)


def test_a_zero_block_or_a_bad_header_in_the_middle_does_not_end_a_shard_silently(tmp_path):
    tar = tmp_path / "a.tar"
    index = write_shard(tar, samples())
    start = index.entries[1].members["jpg"][0] - 512  # a header
    whole = tar.read_bytes()
    for block in (bytes(512), whole[start : start + 100] + b"x" + whole[start + 101 : start + 512]):
        tar.write_bytes(whole[:start] + block + whole[start + 512 :])
        with pytest.raises(ElfError, match=r"a\.tar is cut or damaged"):
            scan(tar)


def test_missing_files_are_named(tmp_path):
    tar = tmp_path / "a.tar"
    with pytest.raises(ElfError, match=r"a\.index\.json is missing: run `elf prepare` again"):
        read_index(tar)
    write_shard(tar, samples())
    tar.unlink()
    with pytest.raises(ElfError, match=r"a\.tar is missing: run `elf prepare` again"):
        verify([tar])
    with pytest.raises(ElfError, match=r"a\.tar is missing"):
        Reader(tmp_path)("a.tar", 0, 1)


def test_reading_past_the_end_is_an_error(tmp_path):
    tar = tmp_path / "a.tar"
    index = write_shard(tar, samples())
    with pytest.raises(ElfError, match=r"a\.tar is cut or damaged \(it ends before byte"):
        Reader(tmp_path)("a.tar", index.size - 10, 20)


def test_a_file_of_another_version_or_kind_is_refused(tmp_path):
    tar = tmp_path / "a.tar"
    write_checked(index_path(tar), {"version": 99})
    with pytest.raises(ElfError, match="was written by another version of elf"):
        read_index(tar)
    other = {"version": 1, "entries": [], "tar": "b.tar", "size": 0, "sha256": "", "recipe": ""}
    for value in ({"version": 1, "entries": [1]}, other):
        write_checked(index_path(tar), value)
        with pytest.raises(ElfError, match="is no index of a shard"):
            read_index(tar)
    for text in (b"", b"[]", b"{}", b"null", b'{"checksum":"0"}\n', b"\xff", b"[" * 10**5):
        index_path(tar).write_bytes(text)
        with pytest.raises(ElfError, match=r"is damaged \(its checksum does not match\): mend it"):
            read_checked(index_path(tar), "mend it")


def test_a_whole_shard_is_hashed_once(tmp_path, monkeypatch):
    tar = tmp_path / "a.tar"
    write_shard(tar, samples())
    verify([tar])
    assert json.loads((tmp_path / STAMPS).read_bytes()).keys() == {"a.tar"}
    monkeypatch.setattr("hashlib.file_digest", None)
    verify([tar])


def test_verifying_works_in_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    write_shard(tmp_path / "a.tar", samples())
    monkeypatch.setattr("elf.stamps.write_atomic", refuse)
    verify([tmp_path / "a.tar"])


def test_a_damaged_note_is_ignored(tmp_path):
    write_shard(tmp_path / "a.tar", samples())
    (tmp_path / STAMPS).write_text("[1")
    verify([tmp_path / "a.tar"])


# --- tars that others wrote -----------------------------------------------------------------


def test_a_plain_tar_of_a_folder_is_grouped_over_the_whole_tar(tmp_path):
    folder = tmp_path / "set" / "sub"
    folder.mkdir(parents=True)
    for suffix in ("jpg", "txt"):  # interleaved: all pictures first
        for name in "abc":
            (folder / f"{name}.{suffix}").write_bytes(f"{name} {suffix}".encode())
    (folder / "notes").write_bytes(b"no suffix")
    (folder / "evil.pkl").write_bytes(b"never read")
    files = [f"./sub/{name}.{suffix}" for suffix in ("jpg", "txt") for name in "abc"]
    command = ["tar", "-cf", tmp_path / "plain.tar", "-C", tmp_path / "set"]
    subprocess.run([*command, "./sub/notes", "./sub/evil.pkl", *files], check=True)
    index = scan(tmp_path / "plain.tar")
    write_index(tmp_path / "plain.tar", index)
    verify([tmp_path / "plain.tar"])
    assert contents(tmp_path, index) == {
        f"sub/{name}": {"jpg": f"{name} jpg".encode(), "txt": f"{name} txt".encode()}
        for name in "abc"
    }


def test_long_names_in_pax_headers_and_the_librarys_defaults_are_read(tmp_path):
    import webdataset

    key = "häuser/" + "x" * 200
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": key, "txt": "a caption", "json": {"a": 1}, "cls": 3})
    (entry,) = scan(tmp_path / "a.tar").entries
    assert entry.key == key and entry.members.keys() == {"txt", "json"} and entry.meta == {"a": 1}


def test_metadata_that_is_no_object_is_ignored(tmp_path):
    write_shard(tmp_path / "a.tar", [Sample("a", {"json": b"[1]"}), Sample("b", {"json": b"{"})])
    assert [entry.meta for entry in scan(tmp_path / "a.tar").entries] == [{}, {}]


def odd_tar(path, *members, data=b"x"):
    with tarfile.open(path, "w") as tar:
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.linkname = "/etc/passwd"
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.fault(15)
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    odd_tar(tmp_path / "a.tar", ("a.jpg", kind))
    with pytest.raises(ElfError, match=r"a\.tar: 'a\.jpg' is a link or no plain file"):
        scan(tmp_path / "a.tar")


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", ["../a.jpg", "/a.jpg", "b/../../a.jpg", "../notes"])
def test_names_that_lead_out_of_a_folder_are_refused(tmp_path, name):
    odd_tar(tmp_path / "a.tar", (name, tarfile.REGTYPE))
    with pytest.raises(ElfError, match=rf"a\.tar: '{name}' leads out of its folder$"):
        scan(tmp_path / "a.tar")


def test_doubled_members_are_refused(tmp_path):
    odd_tar(tmp_path / "a.tar", ("a.jpg", tarfile.REGTYPE), ("./a.JPG", tarfile.REGTYPE))
    with pytest.raises(ElfError, match=r"a\.tar: '\./a\.JPG' stands in it twice"):
        scan(tmp_path / "a.tar")


def test_a_header_that_declares_more_than_the_file_holds_allocates_nothing(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.size = 1 << 60
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 60
    for header in (info, pax):
        (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(ElfError, match=r"a\.tar is cut or damaged"):
            scan(tmp_path / "a.tar")


@pytest.mark.fault(14)
@pytest.mark.parametrize("count", [5000, pytest.param(500_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_random_damage_gives_the_one_error_or_a_sound_index(tmp_path, count, figures):
    count = figures.part(count)
    tar = tmp_path / "a.tar"
    write_shard(tar, samples(2, 20))
    whole, draw = tar.read_bytes()[:4096], random.Random(1)
    for _ in range(count):
        damaged = bytearray(whole + bytes(1024))
        for _ in range(draw.randint(1, 20)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        overwrite(tar, damaged)
        try:
            index = scan(tar)
        except ElfError as error:
            assert str(tar) in str(error)
            continue
        for entry in index.entries:
            assert all(start + size <= index.size for start, size in entry.members.values())
    figures(files=count, other_errors=0)


def test_a_reader_travels_to_another_process_without_its_descriptors(tmp_path):
    index = write_shard(tmp_path / "a.tar", samples())
    reader = Reader(tmp_path)
    where = index.entries[0].members["txt"]
    reader("a.tar", *where)
    copy = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert copy("a.tar", *where) == b"cat 0" == reader("a.tar", *where)
