"""The project that the catalogue's scenes begin in, and what is done to it before a command."""

import codecs
import dataclasses
import logging
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from elf import cli
from elf.resources import shipped

CATALOGUE = Path(__file__).parent / "catalogue"
PIECES = {
    "pictures": ["data/raw"],
    "labels": ["data/labels", ".cache/tagging"],
    "shards": ["data/shards"],
    "run": ["models/by_hand"],
    "text": ["data/text"],
    "tokens": ["data/tokens"],
    "chat": ["models/elvish"],
}
"""What a scene can begin with: the folders of each."""
QUICK = {"elf", "rename", "curate", "label", "export", "serve", "quickstart"}
"""Pages of commands that answer at once; the others read a trainer's config each time."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One way to go wrong.

    Attributes:
        page: The catalogue's page.
        title: What is wrong, in a sentence.
        there: What the project holds at first.
        steps: What is done on the disk.
        command: Of ``elf``, as it is typed.
        line: What is printed; ``‹sha›`` is 12 hex digits, ``‹…›`` the words of another library.
    """

    page: str
    title: str
    there: tuple[str, ...]
    steps: tuple[str, ...]
    command: str
    line: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """What the printed line is to match as a whole."""
        quoted = re.escape(self.line).replace("‹sha›", "[0-9a-f]{12}").replace("‹…›", ".+")
        return re.compile(quoted)


def read_page(path: Path) -> Iterator[Scene]:
    """Yield the scenes of a page: blocks between empty lines; the first says what is there."""
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    there: tuple[str, ...] = ()
    for block in re.split(r"\n\s*\n", text.strip()):
        title, *lines = block.splitlines()
        if title.startswith("# "):
            continue
        if title.startswith("There: "):
            there = tuple(title.removeprefix("There: ").split(", "))
            continue
        *steps, command, line = lines
        done = tuple(step.removeprefix("$ ") for step in steps)
        yield Scene(path.stem, title, there, done, command.removeprefix("$ "), line)


def build(piece: str, folder: Path) -> None:
    """Make a piece of the project, as a user does: by the commands, with the models that ship."""
    if piece == "pictures":
        from elf.quickstart import draw_pictures

        draw_pictures(folder / "data/raw", 6)
    elif piece == "labels":
        cli.main(["predict", "--config", "configs/tag/quickstart.yaml"])
    elif piece == "shards":
        cli.main(["prepare", "--config", "configs/train/quickstart.yaml"])
    elif piece == "run":
        once = "--trainer.max_steps=1 --trainer.callbacks=[] --data.batch_size=2".split()
        cli.main(["fit", "--config", "configs/train/quickstart.yaml", *once])
    elif piece == "text":
        from elf.world.elvish import write_lessons

        write_lessons(folder / "data/text", 40, 0, 4)
    elif piece == "tokens":
        cli.main(["prepare", "--config", "configs/train/language-quickstart.yaml"])
    elif piece == "chat":
        once = "--trainer.max_steps=1 --trainer.callbacks=[]".split()
        cli.main(["fit", "--config", "configs/train/language-quickstart.yaml", *once])


NEEDS = {"labels": "pictures", "shards": "labels", "run": "shards", "tokens": "text",
         "chat": "tokens"}  # fmt: skip


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what fills a folder with pieces of a project; each is made once, for all processes."""
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    whole = common / "errors-project"

    def make(piece: str) -> None:
        if piece in NEEDS:
            make(NEEDS[piece])
        if not (done := whole / f".{piece}").exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(whole)
                build(piece, whole)
            done.touch()

    def fill(folder: Path, pieces: tuple[str, ...]) -> Path:
        with FileLock(common / "errors-project.lock"):
            link_shipped(whole)
            for piece in pieces:
                make(piece)
        link_shipped(folder)
        for path in (path for piece in pieces for path in PIECES[piece]):
            shutil.copytree(whole / path, folder / path)
        return folder

    return fill


def link_shipped(folder: Path) -> None:
    """Put what ships with Elf where it is in a checkout."""
    (folder / "models").mkdir(parents=True, exist_ok=True)
    for name in ("configs", "models/tiny"):
        if not (folder / name).exists():
            (folder / name).symlink_to(shipped(name), target_is_directory=True)


def perform(step: str) -> None:
    """Do one thing to the disk; the words are the shell's, but for the last ones.

    Raises:
        AssertionError: If it would change what another scene begins with.
    """
    words = shlex.split(step)
    content = ""
    if words[-2] in (">", ">>"):
        *words, sign, target = words
        content = " ".join(words[1:])
        if words[0] == "printf":
            data = codecs.escape_decode(content.encode())[0]
        else:
            data = (content + "\n").encode()
        _own(target).parent.mkdir(parents=True, exist_ok=True)
        with open(target, "wb" if sign == ">" else "ab") as file:
            file.write(data)
        return
    verb, *rest = words
    VERBS[verb](*rest)


def _own(path: str) -> Path:
    assert Path(path).resolve().is_relative_to(Path.cwd().resolve()), f"{path} is of all scenes"
    return Path(path)


def _copy(source: str, target: str) -> None:
    if Path(source).is_dir():
        shutil.copytree(source, _own(target))
    else:
        shutil.copy(source, _own(target))


def _remove(*paths: str) -> None:
    for each in map(_own, paths):
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def _truncate(_: str, size: str, path: str) -> None:
    os.truncate(_own(path), int(size))


def _flip(path: str) -> None:
    """Flip a bit in the middle of a file."""
    data = bytearray(_own(path).read_bytes())
    data[len(data) // 2] ^= 1
    Path(path).write_bytes(data)


def _picture(path: str, size: str, colour: str = "green") -> None:
    """Write a picture of one colour."""
    from PIL import Image

    width, _, height = size.partition("x")
    _own(path).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (int(width), int(height)), colour).save(path)


def _substitute(_: str, rule: str, path: str) -> None:
    _, old, new, _ = rule.split(rule[1])
    text = _own(path).read_text(encoding="utf-8")
    assert old in text, f"{path} holds no {old}"
    Path(path).write_text(text.replace(old, new), encoding="utf-8")


def _tensors(path: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the tensors of a checkpoint, or of a ``.safetensors`` file."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    if path.endswith(".safetensors"):
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            header = file.metadata()
        change(tensors)
        save_file(tensors, _own(path), header)
    else:
        content = torch.load(path, weights_only=True)
        change(content["state_dict"])
        torch.save(content, _own(path))


def _nan(path: str) -> None:
    """Make all tensors NaN."""
    _tensors(path, lambda tensors: [tensor.fill_(float("nan")) for tensor in tensors.values()])


def _zero(path: str) -> None:
    """Make all tensors zero."""
    _tensors(path, lambda tensors: [tensor.zero_() for tensor in tensors.values()])


def _lose(path: str, part: str) -> None:
    """Take the first tensor out whose name holds some text."""

    def change(tensors: dict[str, Any]) -> None:
        del tensors[next(name for name in tensors if part in name)]

    _tensors(path, change)


def _foreign(path: str) -> None:
    """Write a checkpoint of another program."""
    import torch

    torch.save({"state_dict": {"weight": torch.zeros(1)}}, _own(path))


VERBS: dict[str, Callable[..., Any]] = {
    "mkdir": lambda path: _own(path).mkdir(parents=True),
    "touch": lambda path: _own(path).touch(),
    "rm": _remove,
    "mv": lambda source, target: _own(source).rename(_own(target)),
    "cp": _copy,
    "ln": lambda _, source, target: _own(target).symlink_to(source),
    "truncate": _truncate,
    "sed": _substitute,
    # no commands of a shell
    "flip": _flip,
    "picture": _picture,
    "tensors": _foreign,
    "nan": _nan,
    "zero": _zero,
    "lose": _lose,
}


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """All of the catalogue."""
    return [scene for path in sorted(CATALOGUE.glob("*.txt")) for scene in read_page(path)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a test that asks for a scene be one for each; of long pages one in six is short."""
    if "scene" not in metafunc.fixturenames:
        return
    found = []
    for path in sorted(CATALOGUE.glob("*.txt")):
        for number, scene in enumerate(read_page(path)):
            marks = [pytest.mark.slow] * (path.stem not in QUICK and number % 6 > 0)
            found.append(pytest.param(scene, id=f"{scene.page}: {scene.title}", marks=marks))
    metafunc.parametrize("scene", found)


@pytest.fixture
def set_up(
    project: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Scene], list[str]]:
    """Return what makes the working directory a scene's, and returns the command's arguments."""

    def begin(scene: Scene) -> list[str]:
        # Lightning logs to the stderr of its import, which an earlier test may have closed
        monkeypatch.setattr(logging, "raiseExceptions", False)
        monkeypatch.chdir(project(tmp_path, scene.there))
        for step in scene.steps:
            perform(step)
        elf, *arguments = shlex.split(scene.command)
        assert elf == "elf"
        return arguments

    return begin
