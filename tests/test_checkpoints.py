"""Checkpoint files: whole, found, and free of code."""

import pickle
from pathlib import Path

import pytest
import torch

from elf.checkpoints import AtomicCheckpointIO, last_checkpoint, read_checkpoint
from elf.errors import ElfError


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


def test_a_state_that_no_checkpoint_gives_back_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    AtomicCheckpointIO().save_checkpoint({"elf": {}, "w": torch.ones(2)}, path)
    with pytest.raises(ElfError, match=r"x\.ckpt was not written: .* holds pathlib\S*Path,"):
        AtomicCheckpointIO().save_checkpoint({"elf": {}, "where": tmp_path}, path)
    assert torch.equal(read_checkpoint(path)["w"], torch.ones(2))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
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


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"no checkpoint .*none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ElfError, match=r"other\.ckpt is no checkpoint of Elf; give one that"):
        read_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(ElfError, match=r"no checkpoint in .*; `elf fit` writes one there"):
        last_checkpoint(tmp_path)
