"""Fixtures that many tests share; shapes are checked while the tests run."""

import http.server
import importlib.util
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

# The models are tiny: a second thread gains nothing, and where another process is busy each of
# their many small operations would wait for it (seen: 100 times slower).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need a network
os.environ.setdefault("WANDB_MODE", "offline")

import torch
from jaxtyping import install_import_hook

if not torch.cuda.is_available():  # before Triton is imported by anything
    os.environ.setdefault("TRITON_INTERPRET", "1")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in (
        "elf.objective.diffusion",
        "elf.adapters.dora",
        "elf.metrics",
        "elf.objective",
        "elf.quantized.codes",
        "elf.bases.text",
        "elf.bases.conditions",
        "elf.embedders.clip",
        "elf.embedders.dino",
        "elf.embedders.interface",
        "elf.embedders.network",
        "elf.embedders.preprocessing",
        "elf.embedders.sscd",
        "elf.embedders.tagger",
    ):
        install_import_hook(name, "beartype.beartype")

from pathlib import Path

import pytest

from elf.quiet import silence_harmless_warnings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that train for minutes, so that no process is left with one at last.

    What a test says of faults goes into a report of the run, for tests/faults/page.py.
    """
    for item in items:
        if mark := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", " ".join(map(str, mark.args))))
            column = "long" if item.get_closest_marker("slow") else "short"
            item.user_properties.append(("column", column))
    items.sort(key=lambda item: item.get_closest_marker("learning") is None)


@pytest.fixture(autouse=True)
def _only_telling_warnings() -> None:
    silence_harmless_warnings()


class Figures:
    """What a test of a fault has counted, for docs/faults.md: see tests/faults/page.py."""

    def __init__(self, node: pytest.Item) -> None:
        self._node = node

    def __call__(self, **counted: float) -> None:
        """Note figures by name; those of a test's cases are added up (of `most_…`, the largest)."""
        self._node.user_properties += [(name, value) for name, value in counted.items()]

    def part(self, count: int) -> int:
        """Return how many of a long column's are to be run: all, or the share that ELF_LONG is."""
        if not self._node.get_closest_marker("slow"):
            return count
        self._node.user_properties.append(("of", count))
        return max(1, round(count * float(os.environ.get("ELF_LONG", "1"))))


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Return what notes a test's figures."""
    return Figures(request.node)


class PoolingEncoder:
    """Frozen models that take no time to load: latents are averages, states are lengths."""

    latent_factor = 8

    def encode_pictures(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return mean, mean.abs()

    def encode_captions(self, captions: list[str]) -> dict[str, torch.Tensor]:
        states = [[[float(len(caption))] * 8] * 8 for caption in captions]
        return {"text": torch.tensor(states)}

    def fingerprints(self) -> dict[str, str]:
        return {"vae": "a", "text": "b"}


@pytest.fixture(scope="session")
def pooling_encoder() -> PoolingEncoder:
    return PoolingEncoder()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of untrained tiny models of the real classes: base, tagger, captioner, clip."""
    from elf.tiny import build_all

    folder = tmp_path_factory.mktemp("tiny")
    return {name: Path(path) for name, path in build_all(folder).items()}


@pytest.fixture(scope="session")
def tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained SDXL in miniature, of the real classes."""
    from elf.tiny.sdxl import build

    return build(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="session")
def tiny_language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained language model in miniature, of a real class."""
    from elf.tiny.language import build

    return build(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def lessons(tmp_path_factory: pytest.TempPathFactory, tiny_language: Path) -> list[str]:
    """Arguments of a training of it, in a moment, whose tokens are prepared."""
    from elf import trainer
    from elf.world.elvish import write_lessons

    folder = tmp_path_factory.mktemp("lessons")
    files = write_lessons(folder, 40, 0, 4)
    arguments = [
        "--config=configs/train/language-quickstart.yaml",
        f"--model.base={tiny_language}",
        f"--data.files=[{files['lessons.jsonl']}]",
        f"--data.tokens={folder / 'tokens'}",
        "--data.length=128",
        "--data.held_out=0.1",
        "--data.batch_size=2",
        "--trainer.val_check_interval=2",
        "--trainer.log_every_n_steps=1",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
    ]
    trainer.prepare(arguments)
    return arguments


@pytest.fixture(scope="session")
def make_language_run(tiny_language: Path) -> Callable[..., Path]:
    """Return what makes a run of the tiny language in a folder, as if something had been learnt."""
    from elf.adapters import AdapterConfig
    from elf.modules import LanguageModule

    def make(folder: Path, seed: int = 0, base: Path = tiny_language, **adapter: Any) -> Path:
        chosen = {"rank": 4, "targets": "attention+feedforward", **adapter}
        module = LanguageModule(str(base), AdapterConfig(**chosen))
        with torch.random.fork_rng():  # whatever was drawn before, in whichever test
            torch.manual_seed(seed)
            module.configure_model()
        draw = torch.Generator().manual_seed(seed)
        state = module.state_dict()
        for key, tensor in state.items():
            if ".lora_B." in key:
                tensor.normal_(0, 1.0, generator=draw)
        content: dict[str, Any] = {"state_dict": state}
        module.on_save_checkpoint(content)
        (folder / "checkpoints").mkdir(parents=True)
        torch.save(content, folder / "checkpoints" / "last.ckpt")
        return folder

    return make


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """A folder with `pictures` (drawn, in three shapes) and their `labels`, by `elf predict`."""
    from elf import trainer
    from elf.quickstart import draw_pictures

    folder = tmp_path_factory.mktemp("labelled")
    draw_pictures(folder / "pictures")
    trainer.predict(
        [
            "--config=configs/tag/quickstart.yaml",
            "--trainer.accelerator=cpu",  # on a GPU its kernels would be compiled first
            f"--data.root={folder / 'pictures'}",
            f"--data.labels={folder / 'labels'}",
            f"--data.cache={folder / 'cache'}",
            f"--model.wd.model={tiny_models['tagger']}",
            f"--model.florence.model={tiny_models['captioner']}",
        ]
    )
    return folder


@pytest.fixture(scope="session")
def training(labelled: Path, tiny_models: dict[str, Path]) -> list[str]:
    """Arguments of a small training run whose shards are prepared; add a run folder."""
    from elf import trainer

    arguments = [
        "--config=configs/train/quickstart.yaml",
        f"--model.base={tiny_models['base']}",
        "--model.adapter.rank=8",
        "--model.optimizer.init_args.lr=2e-3",
        "--model.schedule.shape=constant",
        "--model.schedule.warmup=0",
        "--trainer.val_check_interval=40",
        "--data.batch_size=4",
        "--data.held_out=0.15",
        f"--data.pictures={labelled / 'pictures'}",
        f"--data.labels={labelled / 'labels'}",
        f"--data.shards={labelled / 'shards'}",
    ]
    trainer.prepare(arguments)
    return arguments


class ShardServer(http.server.ThreadingHTTPServer):
    """Serves a folder; cuts each transfer of a shard off after some bytes, as often as told.

    Or says so often that it is busy, stops in the middle of an answer, or refuses any request;
    ``after_cut`` is called when the part is sent, before the connection ends. It serves ranges,
    or does not and tells so only if ``ranges`` is None.
    """

    daemon_threads = True  # one may still wait for who has gone

    def __init__(self, folder: Path, ranges: bool | None = True, port: int = 0) -> None:
        self.folder, self.ranges = folder, ranges
        self.cuts, self.busy, self.stalls, self.refused, self.sent = 0, 0, 0, 0, 0
        self.cut_at = 900  # bytes of an answer
        self.cut_of = ""  # how the names of the shards begin that are cut off
        self.after_cut = lambda: None
        self.go_on = threading.Event()
        super().__init__(("127.0.0.1", port), ShardHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/run"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Go away: whoever connects from now on is refused."""
        self.go_on.set()
        self.shutdown()
        self.server_close()


class ShardHandler(http.server.BaseHTTPRequestHandler):
    server: ShardServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, head: bool) -> None:
        if self.server.refused:
            self.server.refused -= 1
            self.send_error(502)
            return
        path = self.server.folder / self.path.rsplit("/", 1)[-1]
        if not path.exists():
            self.send_error(404)
            return
        data, asked = path.read_bytes(), self.headers.get("Range")
        if path.suffix == ".tar" and self.server.busy and not head:
            self.server.busy -= 1
            self.send_error(503)
            return
        if asked and self.server.ranges:
            first, last = asked.removeprefix("bytes=").split("-")
            last = min(int(last or len(data) - 1), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[int(first) : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        if self.server.ranges is not False:
            self.send_header("Accept-Ranges", "bytes" if self.server.ranges else "none")
        self.end_headers()
        if head:
            return
        named = path.suffix == ".tar" and path.name.startswith(self.server.cut_of)
        cut = named and self.server.cuts > 0
        if cut:
            self.server.cuts -= 1
            data = data[: self.server.cut_at]
            self.close_connection = True
        self.server.sent += len(data) if path.suffix == ".tar" else 0
        if path.suffix == ".tar" and self.server.stalls:
            self.server.stalls -= 1
            self.wfile.write(data[: self.server.cut_at])
            self.wfile.flush()
            self.server.go_on.wait(60)
            return
        self.wfile.write(data)
        if cut:
            self.server.after_cut()


@pytest.fixture
def serve() -> Iterator[Callable[..., ShardServer]]:
    """Return what serves a folder of shards over HTTP until the test ends, or it is closed."""
    servers = []

    def start(folder: Path, ranges: bool | None = True, port: int = 0) -> ShardServer:
        servers.append(ShardServer(folder, ranges, port))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="session")
def fiftyone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """FiftyOne on a database server of this process alone; skips where there is none.

    Left to itself it joins whatever FiftyOne of this user runs, on that one's database, whatever
    folder it was told.
    """
    spec = importlib.util.find_spec("fiftyone")
    if spec is None or spec.origin is None:
        pytest.skip("fiftyone is not installed: pip install 'elf[curate]'")
    if not (given := "FIFTYONE_DATABASE_URI" in os.environ):
        mongod = Path(spec.origin).parent / "db" / "bin" / "mongod"
        if not mongod.is_file():
            pytest.skip("no database server is installed: pip install 'elf[curate]'")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        folder = tmp_path_factory.mktemp("mongo")
        options = [f"--dbpath={folder}", f"--port={port}", "--bind_ip=127.0.0.1", "--nounixsocket"]
        # it ends with this process, however that ends, and after FiftyOne's own end
        script = '"$@" >"$0" 2>&1 & read end; kill $!; wait'
        command = ["sh", "-c", script, str(folder / "log"), str(mongod), *options]
        reader, _ = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, reader, 0)]
        os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        os.close(reader)
        os.environ["FIFTYONE_DATABASE_URI"] = f"mongodb://127.0.0.1:{port}"
    os.environ |= {
        "FIFTYONE_DATABASE_NAME": f"elf-test-{os.getpid()}",
        "FIFTYONE_DO_NOT_TRACK": "1",
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fiftyone

        try:
            fiftyone.list_datasets()
        except ConnectionError as error:
            pytest.skip(f"the database server did not start: {error}")
    yield fiftyone
    if given:
        fiftyone.core.odm.get_db_client().drop_database(fiftyone.config.database_name)
