"""Checkpoint files: whole, found, and free of code."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from elf.errors import ElfError
from elf.training.checkpoints import (
    AtomicCheckpointIO,
    last_checkpoint,
    named_checkpoints,
    read_checkpoint,
)


def test_a_checkpoint_goes_round(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"elf": {"a": 1}, "w": torch.ones(2)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["x.ckpt"]
    loaded = AtomicCheckpointIO().load_checkpoint(path)
    assert loaded["elf"] == {"a": 1}
    assert torch.equal(loaded["w"], torch.ones(2))


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"elf": {}, "w": torch.ones(2)}, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"elf": {}, "w": lambda: None}, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.fault(3, 7)
def test_a_disk_that_is_full_is_one_line_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """Torch says `unexpected pos` of it."""
    resource = pytest.importorskip("resource")  # Unix
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"elf": {}, "w": torch.ones(2)}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (10, 600, 100_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            with pytest.raises(ElfError) as refusal:
                AtomicCheckpointIO().save_checkpoint({"elf": {}, "w": torch.ones(50_000)}, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert str(refusal.value) == (
            f"{path}: could not be written (File too large); those before it are whole: make room, "
            "then go on with --ckpt_path last"
        )
        assert torch.equal(read_checkpoint(path)["w"], torch.ones(2))
        assert list(tmp_path.iterdir()) == [path]


def test_a_state_that_no_checkpoint_gives_back_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"elf": {}, "w": torch.ones(2)}, path)
    with pytest.raises(ElfError, match=r"x\.ckpt was not written: .* holds pathlib\S*Path,"):
        AtomicCheckpointIO().save_checkpoint({"elf": {}, "where": tmp_path}, path)
    assert torch.equal(read_checkpoint(path)["w"], torch.ones(2))


@pytest.mark.fault(15)
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, figures: Any) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    path = tmp_path / "evil.ckpt"
    torch.save({"elf": {}, "x": Evil()}, path)
    with pytest.raises(ElfError, match="is no checkpoint of Elf, or is damaged"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ElfError, match="is no checkpoint of Elf, or is damaged"):
        read_checkpoint(path)
    assert not marker.exists()
    figures(executions=0)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"no checkpoint .*none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ElfError, match=r"other\.ckpt is no checkpoint of Elf; give one that"):
        read_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ElfError, match=r"no checkpoint in .*; `elf fit` writes one there"):
        last_checkpoint(tmp_path)


def test_checkpoints_are_named_in_many_ways(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    names = ["best-000002.ckpt", "last.ckpt", "step-000001.ckpt", "step-000002.ckpt", "a,b.ckpt"]
    best, last, one, two, comma = paths = [folder / name for name in names]
    for path in paths:
        path.touch()
    (folder / ".last.ckpt.x.tmp").touch()
    (folder / "step-000003.ckpt").mkdir()
    assert named_checkpoints("last", tmp_path) == [last]
    assert named_checkpoints(str(comma), tmp_path) == [comma]
    assert named_checkpoints(f"{two}, last,{one}", tmp_path) == [two, last, one]
    assert named_checkpoints([str(comma), "last"], tmp_path) == [comma, last]
    assert named_checkpoints(f"{folder}/step-*.ckpt", tmp_path) == [one, two]
    (folder / "step-000003.ckpt").rmdir()
    assert named_checkpoints("all", tmp_path) == [one, two, comma, best, last]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("all", r"^no checkpoint in {}/checkpoints; `elf fit` writes one there$"),
        ("last", r"^no checkpoint in {}/checkpoints; `elf fit` writes one there$"),
        (
            "x.ckpt",
            r"^ckpt_path: no file x\.ckpt; give a \.ckpt file, a pattern in quotes, `last` or ",
        ),
        (
            "{}/*.ckpt",
            r"^ckpt_path: no file matches {}/\*\.ckpt; give a \.ckpt file, a pattern in q",
        ),
        (",", r"^ckpt_path ',' names nothing; give a \.ckpt file, `last` or `all`$"),
        ([], r"^ckpt_path \[\] names nothing; give"),
    ],
)
def test_what_names_no_checkpoint_is_refused(
    tmp_path: Path, given: str | list[str], message: str
) -> None:
    named = given.format(tmp_path) if isinstance(given, str) else given
    with pytest.raises(ElfError, match=message.format(tmp_path)):
        named_checkpoints(named, tmp_path)
