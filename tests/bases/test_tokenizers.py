"""CLIP's tokenizer from the table of open_clip, from the hub's cache, or one line of what to do."""

import gzip
import importlib.util
import json
from pathlib import Path

import pytest

from elf.bases import tokenizers
from elf.bases.tokenizers import byte_letters, clip_tokenizer, clip_vocabulary, read_table
from elf.errors import ElfError


@pytest.fixture(autouse=True)
def _forget() -> None:
    clip_vocabulary.cache_clear()


@pytest.fixture
def without_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without open_clip, and an empty cache of the hub's."""
    import huggingface_hub

    monkeypatch.setattr(tokenizers, "_packaged_table", lambda: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="no open_clip_torch")
def test_ids_are_those_of_clip() -> None:
    first, second = clip_tokenizer("text_encoder"), clip_tokenizer("text_encoder_2")
    assert len(first) == len(second) == 49408
    # start, a, photo, of, a, cat, end: as in CLIP's own notebook
    assert first("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert first("A  Photo of a CAT").input_ids == first("a photo of a cat").input_ids
    padded = {"padding": "max_length", "max_length": 4}
    assert first("cat", **padded).input_ids == [49406, 2368, 49407, 49407]
    assert second("cat", **padded).input_ids == [49406, 2368, 49407, 0]
    assert second.pad_token == "!"
    assert first.model_max_length == second.model_max_length == 77
    text = "an elf, 1girl, naïve 日本 <3"
    again = first.decode(first(text).input_ids, skip_special_tokens=True)
    assert again == "an elf , 1 girl , naïve 日本 < 3"


def test_without_a_table_the_way_out_is_named(without_table: Path) -> None:
    with pytest.raises(ElfError) as error:
        clip_tokenizer("text_encoder")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(
        "base model: a single file holds no tokenizer, and CLIP's vocabulary is not on this "
        "machine; run `pip install open_clip_torch`, which brings it (tokenizer: openai/"
    )


def test_the_hubs_cache_will_do(without_table: Path) -> None:
    repository = without_table / "models--openai--clip-vit-large-patch14"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    letters = byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "el", "elf</w>"]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    (snapshot / "vocab.json").write_text(json.dumps(vocab))
    (snapshot / "merges.txt").write_text("#version: 0.2\ne l\nel f</w>\n")
    assert clip_tokenizer("text_encoder")("elf").input_ids == [514, 513, 515]


def test_a_damaged_table_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "table.txt.gz"
    for data, why in (
        (b"no gzip", "Not a gzipped file"),
        (gzip.compress(b"#version\ni n\n"), "it ends early"),
        (gzip.compress(b"#version\ni n\n")[:-10], "Compressed file ended"),
    ):
        path.write_bytes(data)
        with pytest.raises(ElfError, match=rf"tokenizer: {path} is damaged \({why}"):
            read_table(path)
