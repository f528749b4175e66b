"""What a header says if it is asked to."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors import safe_open

from elf import cli
from elf.adapters import AdapterConfig
from elf.errors import ElfError
from elf.export.extras import tag_frequency, thumbnail

Make = Callable[[str, AdapterConfig], Any]


def test_a_thumbnail_is_small_and_keeps_its_shape(tmp_path: Path) -> None:
    Image.new("RGB", (800, 400), "red").save(tmp_path / "a.png")
    kind, _, data = thumbnail(tmp_path / "a.png").partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as small:
        assert (small.size, small.format) == ((256, 128), "JPEG")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no")
    with pytest.raises(ElfError, match=r"thumbnail: .*a\.png could not be read \(.*; name a pict"):
        thumbnail(tmp_path / "a.png")
    with pytest.raises(ElfError, match=r"thumbnail: .*none\.png could not be read \(No such file"):
        thumbnail(tmp_path / "none.png")


@pytest.mark.usefixtures("training")
def test_tags_are_counted_by_caption(labelled: Path) -> None:
    found = tag_frequency(labelled / "shards")
    assert found["wood_elf"] == max(found.values()) > 1
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.usefixtures("training")
def test_a_file_says_no_tag_unless_asked(run: Make, labelled: Path, tmp_path: Path) -> None:
    made = run("sd15", AdapterConfig(rank=4))
    config, data = made.folder / "config.yaml", f"{{shards: {labelled / 'shards'}}}"
    config.write_text(f"{config.read_text()}\ndata: {{init_args: {data}}}")
    Image.new("RGB", (80, 40), "red").save(tmp_path / "a.png")
    given = ["export", "--input", str(made.folder), "--target", "kohya", "--output"]

    def header(name: str, *more: str) -> dict[str, str]:
        cli.main([*given, str(tmp_path / name), *more])
        with safe_open(tmp_path / name, "pt") as file:
            found: dict[str, str] = file.metadata()
        return found

    plain = header("x.safetensors")
    assert "ss_tag_frequency" not in plain and "modelspec.thumbnail" not in plain
    assert not any("forest" in value for value in plain.values())
    full = header(
        "y.safetensors", "--tag_frequency", "true", "--thumbnail", str(tmp_path / "a.png")
    )
    (counted,) = json.loads(full["ss_tag_frequency"]).values()
    assert counted == tag_frequency(labelled / "shards")
    assert full["modelspec.thumbnail"].startswith("data:image/jpeg;base64,")
    assert full["sshs_model_hash"] == plain["sshs_model_hash"]  # of the weights alone


def test_without_a_run_there_are_no_tags(
    run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run("sd15", AdapterConfig(rank=4))
    output = str(tmp_path / "x.safetensors")
    given = ["export", "--input", str(made.folder), "--target", "kohya", "--output", output]
    with pytest.raises(SystemExit):
        cli.main([*given, "--tag_frequency", "true"])
    assert "tag_frequency: no config.yaml beside" in capsys.readouterr().err
