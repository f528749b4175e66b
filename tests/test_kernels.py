"""A first run on a GPU says why it takes a while."""

from pathlib import Path

from elf.kernels import none_compiled


def test_what_triton_compiled_before_is_found(tmp_path: Path) -> None:
    named, home = tmp_path / "named", tmp_path / "home"
    assert none_compiled({"TRITON_CACHE_DIR": str(named)})
    (named / "kernel").mkdir(parents=True)
    assert not none_compiled({"TRITON_CACHE_DIR": str(named)})
    assert none_compiled({"TRITON_HOME": str(home)})
    (home / ".triton" / "cache").mkdir(parents=True)
    assert none_compiled({"TRITON_HOME": str(home)})
    (home / ".triton" / "cache" / "kernel").touch()
    assert not none_compiled({"TRITON_HOME": str(home)})
