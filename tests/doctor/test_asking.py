"""What is asked of drivers, disks and servers, by real ones on this machine."""

import base64
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from elf.doctor import dashboard, hub, storage
from elf.nvidia import ask_driver, loaded_version

PROC = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:05:13 UTC 2025
GCC version:  gcc version 12.3.0"""
KEY = "0123456789abcdef" * 3


class Server(http.server.BaseHTTPRequestHandler):
    """A hub that is there, is ill under /ill, and a W&B that knows one key."""

    def do_HEAD(self) -> None:
        self.send_response({"/ill": 503, "/": 200}.get(self.path, 404))
        self.end_headers()

    def do_POST(self) -> None:
        known = base64.b64encode(f"api:{KEY}".encode()).decode()
        right = self.headers["Authorization"] == f"Basic {known}"
        body = b'{"data": {"viewer": {"username": "elf"}}}' if right else b'{"data": {}}'
        status = {"/refusing/graphql": 401, "/ill/graphql": 500}.get(self.path, 200)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"<html>" if self.path.startswith("/html") else body)

    def log_message(self, format: str, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_hub_is_reached_or_not(server: str, silent: str) -> None:
    assert hub.reach(server) == ""
    assert hub.reach(f"{server}/elsewhere") == "", "it is there"
    assert hub.reach(f"{server}/ill") == "it answers 503"
    assert hub.reach(silent, 0.3) == "no answer within 0.3 s"
    assert "refused" in hub.reach(closed())
    assert "unknown url type" in hub.reach("mirror")


def test_a_cache_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "models--owner--name/snapshots/1234").mkdir(parents=True)
    (tmp_path / "models--owner--torn/snapshots").mkdir(parents=True)
    (tmp_path / "datasets--owner--other/snapshots/1").mkdir(parents=True)
    assert hub.cached_models(tmp_path) == ["owner/name"]
    assert hub.cached_models(tmp_path / "none") == []
    assert hub.cache_folder({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert hub.cache_folder({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub.cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")


def test_the_cache_is_the_hub_clients_own() -> None:
    from huggingface_hub import constants

    assert hub.cache_folder() == Path(constants.HF_HUB_CACHE)


def test_wandb_is_asked_whose_key_it_is(server: str, silent: str) -> None:
    assert dashboard.whose(KEY, server) == (True, "")
    assert dashboard.whose("other", server) == (False, "")
    assert dashboard.whose(KEY, f"{server}/refusing") == (False, "")
    assert dashboard.whose(KEY, f"{server}/ill/") == (None, "it answers 500")
    assert dashboard.whose(KEY, f"{server}/html")[0] is None
    assert dashboard.whose(KEY, silent, 0.3)[0] is None
    assert "refused" in dashboard.whose(KEY, closed())[1]


def test_where_an_account_is_set_up(tmp_path: Path) -> None:
    place = {"NETRC": str(tmp_path / "netrc")}
    assert dashboard.account_key(place) is None
    assert dashboard.account_key(place | {"WANDB_API_KEY": "a"}) == "a"
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    assert dashboard.account_key(place) == KEY
    assert dashboard.account_key(place | {"WANDB_BASE_URL": "https://own.example"}) is None
    (tmp_path / "netrc").write_text("machine")
    assert dashboard.account_key(place) is None


def test_a_disk_is_written_to(tmp_path: Path) -> None:
    assert storage.try_to_write(tmp_path) == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left"
    assert storage.nearest(tmp_path / "a" / "b") == tmp_path
    assert storage.try_to_write(tmp_path / "none") == "No such file or directory"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a folder that nobody writes to")
def test_a_disk_that_cannot_be_written_to() -> None:
    assert storage.try_to_write(Path("/proc/self")) != ""


@pytest.mark.skipif(os.name == "nt", reason="the tool is a shell script here")
@pytest.mark.parametrize(
    ("script", "version", "error"),
    [
        ("echo 580.65.06; echo 580.65.06", "580.65.06", ""),
        ("echo 'NVIDIA-SMI has failed'; exit 9", None, "NVIDIA-SMI has failed"),
        ("exit 12", None, "nvidia-smi ends with 12"),
        ("exec sleep 60", None, "nvidia-smi does not answer within 0.5 s"),
    ],
)
def test_the_driver_is_asked(
    script: str, version: str | None, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    driver = ask_driver(str(tmp_path / "none"), timeout=0.5 if "sleep" in script else 60)
    assert driver == (version, error)
    assert driver.there


def test_linux_says_what_it_has_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not ask_driver(str(tmp_path / "none")).there
    (tmp_path / "version").write_text(PROC)
    assert loaded_version(str(tmp_path / "version")) == "580.65.06"
    assert ask_driver(str(tmp_path / "version")) == ("580.65.06", "")
    (tmp_path / "version").write_text("something else")
    assert loaded_version(str(tmp_path / "version")) is None
