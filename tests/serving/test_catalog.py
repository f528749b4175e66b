"""Which adapters can be chosen, and what is said of the others."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from elf.adapters import AdapterConfig
from elf.bases import Base, open_base
from elf.errors import ElfError
from elf.serving.catalog import find


def test_files_and_runs_of_a_folder_are_served(base: Base, shelf: Path) -> None:
    served, refused = find(shelf, {"dora": "elf"}, base)
    assert [(each.name, each.trigger) for each in served] == [
        ("dora", "elf"),
        ("lora", "wood_elf"),
        ("text", None),
    ]
    assert refused == []


def test_what_cannot_be_served_is_told(
    base: Base, tiny_sdxl: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    shelf = tmp_path / "shelf"
    make(tiny_sdxl, AdapterConfig(rank=2), shelf / "big", 0)
    (shelf / "bad.safetensors").write_bytes(b"\x80\x02pickle")
    (shelf / "notes.txt").write_text("no adapter")
    (shelf / "pictures").mkdir()
    run = make(Path(base.name), AdapterConfig(rank=2), shelf / "skipped", 0)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    content["elf"]["base_options"]["clip_skip"] = 2
    torch.save(content, run / "checkpoints" / "last.ckpt")
    served, refused = find(shelf, {}, base)
    assert served == []
    assert len(refused) == 3
    assert refused[0].startswith("bad is not served: adapter: ") and "no safetensors" in refused[0]
    assert "big is not served: base: " in refused[1] and "was trained on the UNet" in refused[1]
    assert refused[2] == (
        "skipped is not served: it was trained with clip_skip 2, and clip_skip None is served"
    )
    with_skip, _ = find(shelf, {}, open_base(base.name, clip_skip=2))
    assert [each.name for each in with_skip] == ["skipped"]


def test_a_link_out_of_the_folder_is_passed_over(
    base: Base, make: Callable[..., Path], tmp_path: Path
) -> None:
    make(Path(base.name), AdapterConfig(rank=2), tmp_path / "secret", 0)
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "link").symlink_to(tmp_path / "secret")
    assert find(tmp_path / "shelf", {}, base) == ([], [])


def test_a_wrong_folder_or_trigger_is_refused(base: Base, shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"adapters: no folder .*none"):
        find(tmp_path / "none", {}, base)
    with pytest.raises(ElfError, match=r"triggers: there is no adapter 'elf' in .* that can be"):
        find(shelf, {"elf": "elf"}, base)
