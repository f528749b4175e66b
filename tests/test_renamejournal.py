"""The journal of `elf rename`: what it takes, and what is no journal."""

import json
import re

import pytest
from PIL import Image

from elf.errors import ElfError
from elf.images import picture_id
from elf.rename import rename, undo
from elf.renamejournal import JOURNAL


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (tmp_path / "b.png").write_bytes(b"beside the folder")
    return folder


def names(root):
    return {path.name for path in root.rglob("[!.]*")}


@pytest.mark.parametrize(
    "line",
    [
        {"from": "../b.png", "to": "b.png"}, {"from": "a.png", "to": "../c.png"},
        {"from": "/etc/hostname", "to": "b.png"}, {"from": "a.png", "to": "b/../../c.png"},
        {"from": "a.png", "to": ""}, {"from": "a.png", "to": "b\0.png"}, {"from": "a.png"},
        {"from": "a.png", "to": 1}, {"done": False}, {"renames": "two"}, {"renames": True}, {},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("command", [rename, undo])
def test_a_journal_of_anything_else_is_refused_and_nothing_is_touched(root, line, command):
    """A folder from a stranger may hold a journal, which no listing shows."""
    text = '{"from": "a.png", "to": "c.png"}\n' + json.dumps(line) + "\n"
    (root / JOURNAL).write_text(text)
    message = f"{JOURNAL}, line 2: no rename of a file in this folder; delete that line, and its"
    with pytest.raises(ElfError, match=re.escape(message)):
        command(root)
    assert names(root) == {"a.png"} and names(root.parent) == {"raw", "a.png", "b.png"}
    assert (root / JOURNAL).read_text() == text


@pytest.mark.parametrize("command", [rename, undo])
def test_a_journal_that_leads_out_by_a_link_is_refused(root, command):
    (root / "link").symlink_to(root.parent, target_is_directory=True)
    line = {"from": "a.png", "to": "link/moved.png"}
    (root / JOURNAL).write_text(json.dumps(line) + "\n" + '{"done": true}\n')
    with pytest.raises(ElfError, match="line 1: no rename of a file in this folder"):
        command(root)
    assert names(root.parent) >= {"a.png", "b.png"} and not (root.parent / "moved.png").exists()


def test_a_journal_of_an_older_version_is_undone(root):
    name = picture_id((root / "a.png").read_bytes()) + ".png"
    (root / "a.png").rename(root / name)
    lines = [{"from": "a.png", "to": name}, {"done": True}]
    (root / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert undo(root) == (1, {})
    assert names(root) == {"a.png"}


def test_a_run_of_an_older_version_that_was_cut_off_is_completed(root):
    name = picture_id((root / "a.png").read_bytes()) + ".png"
    (root / JOURNAL).write_text(json.dumps({"from": "a.png", "to": name}) + "\n")
    plan = rename(root)
    assert (plan.named, plan.moves) == (1, []) and names(root) == {name}
    assert undo(root) == (1, {})
