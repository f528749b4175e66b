import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from elf.errors import ElfError
from elf.pretrained import is_local, load, model_folder, refuse_too_many_layers


@pytest.mark.parametrize("name", ["./a", "/a/b", "~/a", "models", "models/tiny/tagger", "a\\b"])
def test_paths_are_local(name):
    assert is_local(name)


def test_a_hub_name_is_not_local_unless_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_local("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert is_local("owner/name")


def test_a_missing_folder_is_named_with_the_way_out():
    message = "tagger: no folder models/none/here; give an existing folder or a hub name"
    with pytest.raises(ElfError, match=message):
        model_folder("models/none/here", "tagger")


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "model.onnx").touch()
    assert model_folder(str(tmp_path), "tagger", ["*.onnx"]) == tmp_path
    message = re.escape(f"tagger: {tmp_path} has no selected_tags.csv; is it the right folder?")
    with pytest.raises(ElfError, match=message):
        model_folder(str(tmp_path), "tagger", ["model.onnx", "selected_tags.csv"])


def test_a_model_of_the_hub_that_cannot_be_fetched_is_one_line(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_, **__):
        raise LocalEntryNotFoundError("Network is unreachable\nmore\nlines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ElfError) as caught:
        model_folder("owner/name", "tagger")
    text = str(caught.value)
    assert "\n" not in text
    assert "owner/name is not on this machine and could not be downloaded" in text
    assert "`hf download owner/name --local-dir models/owner/name`" in text


def test_a_folder_that_is_not_there_is_no_model_to_download(monkeypatch, tmp_path):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*_, **__):
        raise LocalEntryNotFoundError("Network is unreachable")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ElfError, match="base: no folder models/nope; give one that is there, for no hub"
    ):
        model_folder("models/nope", "base")


def test_the_hubs_cache_is_taken_without_asking_the_network(monkeypatch, tmp_path):
    import huggingface_hub

    calls = []

    def cached(name, **options):
        calls.append(options)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert model_folder("owner/name", "tagger") == tmp_path
    assert [call["local_files_only"] for call in calls] == [True]


def test_a_part_of_a_model_in_the_cache_is_completed(monkeypatch, tmp_path):
    import huggingface_hub

    part, whole = tmp_path / "part", tmp_path / "whole"
    part.mkdir()
    whole.mkdir()
    (whole / "model.onnx").touch()

    def download(name, allow_patterns, local_files_only=False):
        assert allow_patterns == ["*.onnx", "*.md"]
        return str(part if local_files_only else whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert model_folder("owner/name", "tagger", ["*.onnx"], ["*.md"]) == whole


def test_a_shipped_model_is_found_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert model_folder("models/tiny", "tagger", ["README.md"]).is_absolute()


def test_weights_that_cannot_be_loaded_are_one_line(tmp_path):
    def loader(folder, **_):
        raise OSError("no file\nin many\nlines")

    with pytest.raises(ElfError, match=r"captioner: .* could not be loaded \(no file\)"):
        load(loader, tmp_path, "captioner")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_encoder", "num_hidden_layers", 3_000_000),
        ("unet", "layers_per_block", [2, 2, 10**9]),
        ("vae", "layers_per_block", 1e9),
    ],
)
def test_millions_of_layers_are_not_built(part, key, value, tiny_models, tmp_path):
    from elf.bases import open_base

    base = shutil.copytree(tiny_models["base"], tmp_path / "base")
    path = base / part / "config.json"
    config = json.loads(path.read_text())
    assert key in config
    path.write_text(json.dumps(config | {key: value}))
    most = value[-1] if isinstance(value, list) else value
    message = f"{path} has {key} {most}, more than any network; download it again"
    with pytest.raises(ElfError, match=re.escape(message)):
        open_base(str(base)).config(part)  # of which a plan builds networks
    with pytest.raises(ElfError, match=re.escape(message)):
        opened = open_base(str(base))
        if part == "vae":
            opened.vae()
        elif part == "unet":
            opened.unet(torch.float32)
        else:
            opened.text_encoder(part, torch.float32)


def test_layers_are_counted_at_any_depth_and_nothing_else():
    where = Path("config.json")
    refuse_too_many_layers(
        {"hidden_size": 8192, "num_layers": 1000, "x": [{"depths": [1, 9]}]}, where, "m"
    )
    refuse_too_many_layers(
        [["depth", 5000], None, "n_layer"], where, "m"
    )  # nothing that any loader takes
    for config in ({"a": {"b": [{"depths": [1, 1001]}]}}, {"n_layer": 1001}):
        with pytest.raises(
            ElfError, match=r"^m: config\.json has (depths|n_layer) 1001, more than"
        ):
            refuse_too_many_layers(config, where, "m")
