"""CLIP's tokenizer, which single files do not hold, from a table that is on the machine."""

import gzip
import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from elf.bases.configs import PAD_TOKENS
from elf.bases.text import TOKENS
from elf.errors import ElfError
from elf.pretrained import model_folder

HUB_NAME = "openai/clip-vit-large-patch14"
_TABLE = "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 49408 - 2 * 256 - 2  # all tokens but bytes, bytes at a word's end, start and end

Vocabulary = tuple[dict[str, int], list[tuple[str, str]]]


def clip_tokenizer(encoder: str) -> Any:
    """Return CLIP's tokenizer for a text encoder of SD1.5 or SDXL.

    Args:
        encoder: The part that reads the tokens; they differ in what they are padded with.

    Raises:
        ElfError: If the vocabulary is not on this machine and cannot be downloaded.
    """
    from transformers import CLIPTokenizer

    vocab, merges = clip_vocabulary()
    return CLIPTokenizer(
        vocab=vocab, merges=merges, pad_token=PAD_TOKENS[encoder], model_max_length=TOKENS
    )


@lru_cache(maxsize=1)
def clip_vocabulary() -> Vocabulary:
    """Return CLIP's 49,408 tokens with their ids, and the 48,894 merges that make most of them.

    From the table in the package ``open_clip_torch``, or else from the hub's cache.

    Raises:
        ElfError: If neither is there.
    """
    table = _packaged_table()
    if table is not None:
        return read_table(table)
    try:
        folder = model_folder(HUB_NAME, "tokenizer", ("vocab.json", "merges.txt"))
    except ElfError as error:
        raise ElfError(
            "base model: a single file holds no tokenizer, and CLIP's vocabulary is not on this "
            f"machine; run `pip install open_clip_torch`, which brings it ({error})"
        ) from None
    return _read_hub(folder)


def _packaged_table() -> Path | None:
    # not by an import: that takes seconds, and nothing of it is used
    spec = importlib.util.find_spec("open_clip")
    folders = spec.submodule_search_locations if spec is not None else None
    found = [Path(folder) / _TABLE for folder in folders or ()]
    return next((path for path in found if path.is_file()), None)


def read_table(path: Path) -> Vocabulary:
    """Read OpenAI's table: a line of its version, then a merge in each line, best first.

    The vocabulary is (Radford et al. 2021, section 2.4): each byte as a printable character, the
    same at the end of a word, what the merges make, and the start and the end of a text.

    Raises:
        ElfError: If it is not that table.
    """
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()[1 : _MERGES + 1]
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ElfError(f"tokenizer: {path} is damaged ({error}); install it again") from None
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    if len(merges) != _MERGES:
        raise ElfError(f"tokenizer: {path} is damaged (it ends early); install it again")
    letters = byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [first + second for first, second in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def byte_letters() -> list[str]:
    """Return a printable character for each byte, printable bytes first (GPT-2's alphabet)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(68)]


def _read_hub(folder: Path) -> Vocabulary:
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    pairs = (line.split() for line in lines if line)
    return vocab, [(first, second) for first, second in pairs]
