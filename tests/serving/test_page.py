"""The page's API over real HTTP, by Gradio's own client, and what it refuses."""

import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from elf import cli
from elf.errors import ElfError
from elf.serving.command import is_loopback, start
from elf.serving.engine import Engine
from elf.serving.request import Request

PROMPT = "forest, night"
Serving = Callable[..., AbstractContextManager[str]]


def status(url: str, data: bytes | None = None, **headers: str) -> int:
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.fixture(scope="module")
def server(serving: Serving, shelf: Path, tiny_models: dict[str, Path]) -> Iterator[str]:
    with serving(tiny_models["base"], shelf) as url:
        yield url


@pytest.fixture(scope="module")
def client(server: str) -> Any:
    from gradio_client import Client

    return Client(server, verbose=False)


def asked(
    adapter: str = "lora", seed: int = 3, strength: float = 1.0, steps: int = 2, **more: Any
) -> dict[str, Any]:
    return {
        "prompt": PROMPT, "negative_prompt": "", "adapter": adapter, "strength": strength,
        "seed": seed, "steps": steps, "guidance": 3.0, "width": 64, "height": 64, "trigger": True,
        **more,
    }  # fmt: skip


def opened(found: dict[str, Any]) -> tuple[np.ndarray, str]:
    with Image.open(found["image"]) as picture:
        return np.asarray(picture.convert("RGB")), picture.info["parameters"]


def test_a_picture_is_drawn_and_says_how(client: Any) -> None:
    (picture,), said, seed = client.predict(**asked(), api_name="/generate")
    drawn, parameters = opened(picture)
    assert drawn.shape == (64, 64, 3)
    assert parameters == said and said.startswith("wood_elf, forest, night <lora:lora:1>\n")
    assert (seed, picture["caption"]) == (3, "lora × 1, seed 3")
    (again,), _, _ = client.predict(**asked(), api_name="/generate")
    assert np.array_equal(opened(again)[0], drawn)
    _, _, other = client.predict(**asked(seed=-1), api_name="/generate")
    assert 0 <= other < 2**32


def test_base_and_adapter_have_one_seed_and_prompt(client: Any) -> None:
    (base, adapter), said, seed = client.predict(**asked(seed=-1), api_name="/compare")
    assert base["caption"] == f"base, seed {seed}"
    assert not np.array_equal(opened(base)[0], opened(adapter)[0])
    (alone,), _, _ = client.predict(
        **asked("(base)", seed, prompt=f"wood_elf, {PROMPT}"), api_name="/generate"
    )
    assert np.array_equal(opened(alone)[0], opened(base)[0])
    assert f"Seed: {seed}" in said


def test_a_grid_has_strengths_and_seeds(client: Any) -> None:
    (sheet,), _, _ = client.predict(**asked(), strengths="0, 0.5, 1", seeds=2, api_name="/grid")
    drawn, parameters = opened(sheet)
    assert parameters.endswith(', Grid: "strengths 0, 0.5, 1; 2 seeds from 3"')
    assert drawn.shape[1] > 3 * 128 and drawn.shape[0] > 2 * 128  # small pictures are enlarged


def test_what_there_is_can_be_asked(client: Any, server: str) -> None:
    assert client.predict(api_name="/adapters") == ["(base)", "dora", "lora", "text"]
    with urllib.request.urlopen(f"{server}/health", timeout=10) as answer:
        found = json.loads(answer.read())
    assert (found["status"], found["adapters"]) == ("ok", ["dora", "lora", "text"])


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("/generate", {"adapter": "../lora"}, "not in the list of choices"),
        ("/generate", {"steps": 999}, "999"),
        ("/generate", {"width": 68}, "width 68 is no multiple of 8"),
        ("/grid", {"strengths": "a", "seeds": 1}, "strengths 'a' are no numbers with commas"),
        ("/grid", {"strengths": "1," * 20 + "1", "seeds": 8}, "a grid of 168 pictures; take 1"),
    ],
)
def test_what_makes_no_sense_is_refused(
    client: Any, name: str, more: dict[str, Any], message: str
) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=message):
        client.predict(**{**asked(), **more}, api_name=name)


def test_fifty_at_once_are_answered_or_refused(server: str) -> None:
    """Each that is answered has its own adapter and seed; the others hear that it is full."""
    from gradio_client import Client

    clients = [Client(server, verbose=False) for _ in range(5)]
    names = ["(base)", "lora", "dora", "text"]
    wanted = [asked(names[n % 4], seed=n % 3, trigger=False) for n in range(50)]
    alone = {}
    for each in wanted:
        key = (each["adapter"], each["seed"])
        if key not in alone:
            (picture,), said, _ = clients[0].predict(**each, api_name="/generate")
            alone[key] = opened(picture)[0].tobytes(), said
    jobs = [clients[n % 5].submit(**each, api_name="/generate") for n, each in enumerate(wanted)]
    answered = refused = 0
    for each, job in zip(wanted, jobs, strict=True):
        try:
            (picture,), said, _ = job.result(timeout=120)
        except Exception as error:
            assert "full" in str(error).lower(), error
            refused += 1
            continue
        assert (opened(picture)[0].tobytes(), said) == alone[each["adapter"], each["seed"]]
        answered += 1
    assert answered + refused == 50 and answered >= 16


def test_a_stop_ends_what_is_drawn(server: str) -> None:
    from gradio_client import Client

    client = Client(server, verbose=False)
    start_time = time.perf_counter()
    job = client.submit(**asked(steps=150, width=256, height=256), api_name="/generate")
    while job.status().code.name != "PROCESSING" and time.perf_counter() - start_time < 30:
        time.sleep(0.05)
    while not job.done():
        client.predict(api_name="/stop")
        time.sleep(0.1)
    with pytest.raises(Exception, match="stopped"):
        job.result()
    client.predict(**asked(), api_name="/generate")  # the next is drawn


@pytest.mark.fault(16)
def test_files_of_the_machine_are_not_served(server: str, shelf: Path) -> None:
    """Fault 16: paths out of the folder, and uploads that are too large."""
    prefix = f"{server}/gradio_api/file="
    for path in ("/etc/passwd", "../../../../etc/passwd", str(shelf / "lora.safetensors"),
                 "%2e%2e/%2e%2e/etc/passwd", "/proc/self/environ"):  # fmt: skip
        assert status(prefix + path) in (403, 404), path
    for size, expected in ((10 << 20, 413), (1000, 200)):
        files = {"files": ("a.bin", b"0" * size)}
        assert httpx.post(f"{server}/gradio_api/upload", files=files).status_code == expected


@pytest.mark.fault(16)
def test_a_word_is_asked_for(serving: Serving, shelf: Path, tiny_models: dict[str, Path]) -> None:
    from gradio_client import Client

    with serving(tiny_models["base"], shelf, "--auth=elf:secret") as url:
        assert status(f"{url}/config") == 401
        assert status(f"{url}/gradio_api/call/adapters", b'{"data": []}') == 401
        assert status(f"{url}/health") == 200
        client = Client(url, auth=("elf", "secret"), verbose=False)
        assert "lora" in client.predict(api_name="/adapters")


def options(base: Path, shelf: Path, **changes: Any) -> SimpleNamespace:
    values: dict[str, Any] = {
        "base": str(base), "adapters": str(shelf), "triggers": {}, "prediction_type": None,
        "zero_terminal_snr": None, "clip_skip": None, "base_configs": None, "caption_tokens": 75,
        "device": "cpu", "precision": "auto", "host": "127.0.0.1", "port": 0, "auth": None,
        "queue": 16, "largest_side": 256, "title": "Elf", "prompt": PROMPT, "examples": [PROMPT],
        "width": 64, "height": 64, "steps": 2, "guidance": 3.0,
    }  # fmt: skip
    return SimpleNamespace(**{**values, **changes})


@pytest.mark.fault(16)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"host": "0.0.0.0"}, r"host: 0\.0\.0\.0 can be reached by others; set --auth user:passw"),
        ({"host": "::"}, r"host: :: can be reached by others"),
        ({"auth": "elf"}, r"auth: not of the form user:password"),
        ({"queue": 0}, r"queue: 0 is none; take 1 or more"),
        ({"device": "gpu"}, r"device: 'gpu' is none; take cpu, cuda or auto"),
        ({"precision": "float16"}, r"precision: float16 needs a GPU; take float32 or auto"),
        ({"width": 512}, r"width 512 is not within 8 to 256"),
        ({"adapters": "nowhere"}, r"adapters: no folder nowhere"),
    ],
)
def test_what_is_unsafe_or_wrong_does_not_start(
    changes: dict[str, Any], message: str, shelf: Path, tiny_models: dict[str, Path]
) -> None:
    with pytest.raises(ElfError, match=message):
        start(options(tiny_models["base"], shelf, **changes))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_refused(shelf: Path, tiny_models: dict[str, Path]) -> None:
    with pytest.raises(ElfError, match="device: there is no cuda here; take cpu or auto"):
        start(options(tiny_models["base"], shelf, device="cuda"))


def test_the_client_of_the_docs_works(
    serving: Serving,
    shelf: Path,
    tiny_models: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And an exported file is all that another program needs."""
    text = Path("docs/serving.md").read_text(encoding="utf-8")
    client, backend, *_ = re.findall(r"```python\n(.*?)```", text, re.S)
    with serving(tiny_models["base"], shelf) as url:
        exec(client.replace("http://127.0.0.1:7860", url).replace("wood_elf", "lora"), {})
    said = capsys.readouterr().out
    assert "['(base)', 'dora', 'lora', 'text']" in said and ".png" in said
    here = backend.replace('"models/base", dtype=torch.float16', "base").replace("cuda", "cpu")
    here = here.replace("models/wood_elf/adapter", str(shelf / "text"))
    here = here.replace('night")', 'night", num_inference_steps=2, width=64, height=64)')
    names: dict[str, Any] = {"base": str(tiny_models["base"])}
    exec(here, names)
    assert names["picture"].size == (64, 64)


def test_without_gradio_the_way_is_said(
    shelf: Path, tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "elf.serving.page", raising=False)
    with pytest.raises(
        ElfError, match=r"serve: the page needs Gradio: pip install -e '\.\[serve\]'"
    ):
        start(options(tiny_models["base"], shelf))


def test_old_pictures_are_removed(engine: Engine, tmp_path: Path) -> None:
    from elf.serving.page import Page

    for name, age in (("old.png", 4000), ("new.png", 10)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (drawn,) = engine.draw([Request(PROMPT, steps=1, width=32, height=32)])
    file = Page(engine, tmp_path)._file(drawn)
    assert {path.name for path in tmp_path.iterdir()} == {"new.png", Path(file).name}


def test_loopback_is_known() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org")))


def test_the_command_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["serve", "--config=configs/serve/gradio.yaml", "--hots=0.0.0.0"])
    assert "unknown key 'hots'; did you mean 'host'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["serve", "--config=configs/serve/gradio.yaml", "--host=0.0.0.0"])
    assert "host: 0.0.0.0 can be reached by others" in capsys.readouterr().err
