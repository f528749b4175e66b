"""Shards behind a URL: in fsspec's memory, and behind an HTTP server that cuts transfers off."""

import io
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
import torch

from elf import trainer
from elf.checked import write_checked
from elf.errors import ElfError
from elf.files import FolderLock
from elf.preparation import remote
from elf.preparation.prepared import read_prepared
from elf.preparation.remote import fetch_shards, local_path
from elf.preparation.shards import index_path


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.0)


@pytest.fixture
def memory(prepared):
    """A function that gives the URL of a copy of the prepared folder, in memory."""
    files = fsspec.filesystem("memory")
    for path in prepared.iterdir():
        if not path.name.startswith("."):
            files.pipe_file(f"/shards/{path.name}", path.read_bytes())
    yield files
    files.rm("/shards", recursive=True)


URL = "memory://shards"


class Opened:
    """Counts what is opened of a file system."""

    def __init__(self, files, monkeypatch):
        self.names, real = [], files.open
        monkeypatch.setattr(
            type(files), "open",
            lambda _, path, *args, **more: self.names.append(path.rsplit("/", 1)[-1])
            or real(path, *args, **more),
        )  # fmt: skip


def test_what_is_fetched_is_what_was_prepared(memory, prepared, tmp_path):
    folder = fetch_shards(f"{URL}/", tmp_path)
    assert folder == local_path(URL, tmp_path)
    assert read_prepared(folder) == read_prepared(prepared)
    # pictures are not needed to train, only what the indexes say of them
    assert {path.name for path in folder.glob("*.tar")} == {
        path.name for path in prepared.glob("*.tar") if not path.name.startswith(("train", "held"))
    }


def test_a_second_fetch_opens_one_file(memory, tmp_path, monkeypatch):
    fetch_shards(URL, tmp_path)
    opened = Opened(memory, monkeypatch)
    fetch_shards(URL, tmp_path)
    assert opened.names == ["prepared.json"]


def test_only_what_changed_is_fetched_again(memory, tmp_path, monkeypatch):
    folder = fetch_shards(URL, tmp_path)
    lost = next(folder.glob("latents-*.tar"))
    damaged = index_path(next(folder.glob("captions-*.tar")))
    content = lost.read_bytes()
    lost.unlink()
    damaged.write_bytes(b"{")
    (folder / "latents-00003-of-00009.tar").write_bytes(b"of an earlier preparation")
    opened = Opened(memory, monkeypatch)
    fetch_shards(URL, tmp_path)
    assert sorted(opened.names) == sorted(["prepared.json", lost.name, damaged.name])
    assert lost.read_bytes() == content
    assert not (folder / "latents-00003-of-00009.tar").exists()


def test_the_beginning_of_another_shard_is_not_kept(memory, tmp_path):
    folder = fetch_shards(URL, tmp_path)
    lost = next(folder.glob("latents-*.tar"))
    content = lost.read_bytes()
    lost.unlink()
    (folder / f".{lost.name}.partial").write_bytes(b"x" * 700)
    fetch_shards(URL, tmp_path)
    assert lost.read_bytes() == content
    assert not list(folder.glob(".*.partial"))


def test_a_shard_that_is_not_the_prepared_one(memory, tmp_path):
    name = next(path for path in memory.ls("/shards", detail=False) if "latents" in path and
                path.endswith(".tar"))  # fmt: skip
    content = memory.cat_file(name)
    memory.pipe_file(name, content[:-1] + b"x")
    message = r"memory://shards/latents-.*tar is not the shard that was prepared: copy there all"
    with pytest.raises(ElfError, match=message):
        fetch_shards(URL, tmp_path)
    memory.pipe_file(name, content)
    fetch_shards(URL, tmp_path)
    index = name.replace(".tar", ".index.json")
    other = next(path for path in memory.ls("/shards", detail=False) if "captions" in path and
                 path.endswith("json"))  # fmt: skip
    memory.pipe_file(index, memory.cat_file(other))
    with pytest.raises(ElfError, match=message):
        fetch_shards(URL, tmp_path / "another")


@pytest.mark.fault(15)
@pytest.mark.parametrize("name", ["../../out-0-of-1.tar", "/out-0-of-1.tar", "a\\b-0-of-1.tar", 7])
def test_names_that_lead_elsewhere_are_refused(memory, tmp_path, name):
    path = tmp_path / "prepared.json"
    value = json.loads(memory.cat_file("/shards/prepared.json"))
    del value["checksum"]
    value["tars"] = {str(name): "0" * 64}
    write_checked(path, value)
    memory.pipe_file("/shards/prepared.json", path.read_bytes())
    message = r"memory://shards/prepared\.json names '.*', which is no shard: run `elf prepare"
    with pytest.raises(ElfError, match=message):
        fetch_shards(URL, tmp_path / "cache")
    with pytest.raises(ElfError, match=r"prepared\.json names '.*', which is no shard"):
        read_prepared(tmp_path)
    assert not list(tmp_path.rglob("out*"))


@pytest.mark.parametrize("name", ["prepared.json", "latents-00000-of-00001.tar"])
def test_a_missing_file_is_named(memory, tmp_path, name):
    memory.rm(f"/shards/{name}")
    with pytest.raises(ElfError, match=rf"^memory://shards/{name} is missing: copy there all"):
        fetch_shards(URL, tmp_path)


def test_a_damaged_list_is_named_by_its_url(memory, tmp_path):
    memory.pipe_file("/shards/prepared.json", b"{}")
    with pytest.raises(ElfError, match=r"^memory://shards/prepared.json is damaged"):
        fetch_shards(URL, tmp_path)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nowhere://x", r"^data.shards nowhere://x: Protocol not known: nowhere"),
        ("simplecache::memory://x", r"simplecache::memory://x: name one file system, not a chain"),
    ],
)
def test_urls_that_are_not_read(tmp_path, where, message):
    with pytest.raises(ElfError, match=message):
        fetch_shards(where, tmp_path)


@pytest.mark.fault(8)
def test_two_at_once_are_refused(memory, tmp_path):
    with (
        FolderLock(local_path(URL, tmp_path)),
        pytest.raises(ElfError, match="is being written by another process"),
    ):
        fetch_shards(URL, tmp_path)


def test_a_folder_is_its_own_copy(tmp_path):
    assert local_path("data/shards", tmp_path) == remote.Path("data/shards")
    assert not remote.is_remote("data/shards")
    assert local_path("s3://a/b", tmp_path) != local_path("s3://a/c", tmp_path)


@pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
def server(request, prepared, serve):
    return serve(prepared, request.param)


def test_transfers_that_are_cut_off_go_on(server, prepared, tmp_path):
    url = server.url
    server.cuts = 2
    folder = fetch_shards(url, tmp_path)
    assert server.cuts == 0
    assert read_prepared(folder) == read_prepared(prepared)


def test_a_server_that_always_cuts_off_and_a_later_start(server, prepared, tmp_path):
    url = server.url
    server.cuts = 1000
    with pytest.raises(
        ElfError, match=r"could not be read in 4 tries \(.*what has arrived is kept"
    ):
        fetch_shards(url, tmp_path)
    server.cuts = 0
    assert read_prepared(fetch_shards(url, tmp_path)) == read_prepared(prepared)


def test_a_busy_server_is_asked_again(server, prepared, tmp_path):
    url = server.url
    server.busy = 3
    assert read_prepared(fetch_shards(url, tmp_path)) == read_prepared(prepared)
    assert server.busy == 0
    server.busy = 1000
    with pytest.raises(ElfError, match=rf"^{url}/.*tar could not be read in 4 tries \(503"):
        fetch_shards(url, tmp_path / "another")


def test_a_server_that_has_gone_away_is_not_taken_for_one_without_the_file(
    server, prepared, tmp_path
):
    server.refused = 3  # whole requests, by a proxy that has lost what is behind it
    assert read_prepared(fetch_shards(server.url, tmp_path)) == read_prepared(prepared)
    assert server.refused == 0
    server.close()
    with pytest.raises(ElfError, match=rf"^{server.url}/prepared.json could not be read in 4 tri"):
        fetch_shards(server.url, tmp_path)


def test_a_file_that_a_server_does_not_have_is_missing(server, prepared, tmp_path):
    server.folder = shutil.copytree(prepared, tmp_path / "served")
    (tar,) = server.folder.glob("latents-*.tar")
    tar.unlink()
    with pytest.raises(ElfError, match=rf"^{server.url}/{tar.name} is missing: copy there all"):
        fetch_shards(server.url, tmp_path / "cache")


def test_a_server_that_says_nothing_more_is_asked_again(server, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "STALL", 0.3)
    url = server.url
    server.stalls = 2
    assert read_prepared(fetch_shards(url, tmp_path)) == read_prepared(prepared)
    assert server.stalls == 0
    server.stalls = 1000
    with pytest.raises(ElfError, match=rf"^{url}/.*tar could not be read in 4 tries"):
        fetch_shards(url, tmp_path / "another")


@pytest.mark.parametrize("length", [0, -700, 512], ids=["other bytes", "shorter", "longer"])
def test_a_shard_that_is_replaced_while_it_is_fetched(server, prepared, tmp_path, length):
    folder = shutil.copytree(prepared, tmp_path / "served")
    (tar,) = folder.glob("latents-*.tar")
    content = tar.read_bytes()
    other = b"x" * (len(content) + length)
    server.folder, server.cuts, server.cut_of = folder, 1, tar.name
    server.after_cut = lambda: tar.write_bytes(other)
    url = server.url
    refused = f"{url}/{tar.name} (is not the shard that was prepared|could not be read in 4 tries)"
    with pytest.raises(ElfError, match=refused):
        fetch_shards(url, tmp_path / "cache")
    copied = local_path(url, tmp_path / "cache")
    assert not (copied / tar.name).exists() and not (copied / "prepared.json").exists()
    tar.write_bytes(content)  # all is well again: what has arrived of the other is not kept
    assert read_prepared(fetch_shards(url, tmp_path / "cache")) == read_prepared(prepared)


class Cut(io.BytesIO):
    """A file of which two reads bring something before the connection is lost."""

    reads = 2

    def read(self, size=-1):
        self.reads -= 1
        if self.reads < 0:
            raise ConnectionResetError("the connection was reset")
        return super().read(size)


def test_a_long_transfer_may_be_cut_off_often(memory, monkeypatch):
    """Only tries that bring next to nothing count."""
    monkeypatch.setattr(remote, "CHUNK", 1024)
    data, opened = np.random.default_rng(0).bytes(20_000), []
    monkeypatch.setattr(
        type(memory), "open", lambda *_, **__: opened.append(Cut(data)) or opened[-1]
    )
    assert b"".join(remote._Remote(URL).chunks("a.tar", 0, len(data))) == data
    assert len(opened) > 2 * remote.TRIES


def test_of_two_machines_with_one_folder_one_waits_and_opens_one_file(
    memory, prepared, tmp_path, monkeypatch
):
    lock = FolderLock(local_path(URL, tmp_path))
    waiting = threading.Event()
    monkeypatch.setattr(remote.time, "sleep", lambda _: waiting.set())
    with ThreadPoolExecutor(1) as threads:
        second = threads.submit(fetch_shards, URL, tmp_path, wait=True)
        assert waiting.wait(60)
        lock.close()
        assert read_prepared(second.result(60)) == read_prepared(prepared)


@pytest.mark.fault(7)
@pytest.mark.parametrize("call", ["sync_folder", "write_atomic"])
def test_a_full_disk_is_one_line(memory, tmp_path, monkeypatch, call):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(remote, call, fail)
        with pytest.raises(ElfError, match=r"could not be written: .*No space left"):
            fetch_shards(URL, tmp_path)
    fetch_shards(URL, tmp_path)


def test_a_run_on_remote_shards_is_the_run_on_a_folder(memory, kit, make_data, tmp_path):
    here, there = kit.TinyModule(), kit.TinyModule()
    there.load_state_dict(here.state_dict())
    kit.make_trainer(tmp_path / "here", max_steps=9).fit(here, make_data())
    data = make_data(shards=URL, shards_cache=str(tmp_path / "cache"))
    kit.make_trainer(tmp_path / "there", max_steps=9).fit(there, data)
    assert there.seen == here.seen
    torch.testing.assert_close(there.state_dict(), here.state_dict(), rtol=0, atol=0)


def test_preparing_needs_a_folder():
    with pytest.raises(ElfError, match=r"^data.shards s3://a/b is a URL, which is only read: prep"):
        trainer.prepare(["--config=configs/train/quickstart.yaml", "--data.shards=s3://a/b"])
