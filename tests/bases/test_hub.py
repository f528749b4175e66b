"""A base by its hub name: from the cache without a network, or with what is still to be fetched."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from elf.bases import open_base
from elf.errors import ElfError

UNET = "unet/diffusion_pytorch_model.safetensors"
HALF = "unet/diffusion_pytorch_model.fp16.safetensors"


class Hub:
    """A hub that has one repository in two versions, and a cache of some of its files."""

    def __init__(self, tiny: Path, folder: Path) -> None:
        self.repository, self.cache, self.reachable = folder / "repository", folder / "cache", True
        shutil.copytree(tiny, self.repository)
        self.version = "old"
        self.downloaded: list[str] = []

    def snapshot_download(
        self, name: str, allow_patterns: list[str], local_files_only: bool = False
    ) -> str:
        assert name == "owner/name"
        if not local_files_only:
            if not self.reachable:
                raise LocalEntryNotFoundError("Network is unreachable")
            folder = self.cache / self.version
            for pattern in allow_patterns:
                for path in self.repository.glob(pattern):
                    target = folder / path.relative_to(self.repository)
                    if not target.exists():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(path, target)
                        self.downloaded.append(os.fspath(path.relative_to(self.repository)))
            (self.cache / "main").write_text(self.version)
        elif not (self.cache / "main").exists():
            raise LocalEntryNotFoundError("not in the cache")
        return os.fspath(self.cache / (self.cache / "main").read_text())


@pytest.fixture
def hub(tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tiny_models["base"], tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    return made


def state(folder: str) -> dict[str, Any]:
    return dict(open_base(folder).unet(torch.float32).state_dict())


def test_what_is_in_the_cache_needs_no_network(hub: Hub) -> None:
    with pytest.raises(ElfError, match=r"owner/name is not on this machine and could not be down"):
        hub.reachable = False
        open_base("owner/name")
    hub.reachable = True
    (hub.repository / "unet/diffusion_pytorch_model.bin").touch()
    (hub.repository / HALF).touch()
    first = open_base("owner/name").encoder_fingerprints()
    assert not [file for file in hub.downloaded if file.endswith(".bin") or "fp16" in file]
    hub.reachable = False
    torch.testing.assert_close(state("owner/name"), state(str(hub.repository)))
    assert open_base("owner/name").encoder_fingerprints() == first


def test_half_precision_is_fetched_where_there_is_nothing_else(hub: Hub) -> None:
    (hub.repository / UNET).rename(hub.repository / HALF)
    base = open_base("owner/name")
    assert HALF in hub.downloaded
    hub.reachable = False
    assert open_base("owner/name").fingerprint("unet") == base.fingerprint("unet")


def split(hub: Hub) -> list[Path]:
    unet: Any = open_base(str(hub.repository)).unet(torch.float32)
    (hub.repository / UNET).unlink()
    unet.save_pretrained(hub.repository / "unet", max_shard_size="1MB")
    return sorted((hub.repository / "unet").glob("*-of-*.safetensors"))


def test_weights_in_several_files_are_fetched_whole(hub: Hub) -> None:
    shards = split(hub)
    open_base("owner/name")
    assert {f"unet/{shard.name}" for shard in shards} <= set(hub.downloaded)
    (hub.cache / "old/unet" / shards[0].name).unlink()  # as after a download that was stopped
    torch.testing.assert_close(state("owner/name"), state(str(hub.repository)))


@pytest.mark.parametrize("change", [lambda hub: None, split])
def test_versions_are_not_mixed(hub: Hub, change: Callable[[Hub], Any]) -> None:
    open_base("owner/name")
    (hub.cache / "old" / UNET).unlink()
    hub.version = "new"
    change(hub)
    base = open_base("owner/name")
    assert str(hub.cache / "new") in str(base._parts.where)
    assert (hub.cache / "new/vae/config.json").exists()
    base.unet(torch.float32)


def test_what_the_hub_lacks_is_named(hub: Hub) -> None:
    (hub.repository / UNET).unlink()
    with pytest.raises(ElfError, match=f"base model: {hub.cache}/old has no {UNET}"):
        open_base("owner/name")
