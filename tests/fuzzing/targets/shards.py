"""What lies beside shards and tokens, checksums and all: whoever writes one can write the other."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from oracle import Check, refused
from spoiling import spoiled_json

from elf.checked import write_checked
from elf.language.arrays import ArrayWriter
from elf.language.settings import TextSettings
from elf.language.store import TokenStore, index_hash
from elf.preparation.caches import pack
from elf.preparation.prepared import Prepared, read_prepared, write_prepared
from elf.preparation.settings import Settings
from elf.preparation.shards import Reader, Sample, index_path, read_index, verify, write_shard

from . import join, split

LONGEST = 1 << 13
WORDS = (
    *(b'"members"', b'"entries"', b'"meta"', b'"key"', b'"size"', b'"sha256"', b'"tar"', b'"tars"'),
    *(
        b'"settings"',
        b'"sets"',
        b'"set"',
        b'"bucket"',
        b'"crop"',
        b'"shape"',
        b'"version"',
        b"null",
    ),
    *(b'"arrays"', b'"dtype"', b'"count"', b'"folder"', b'"<u8"', b"1e999", b"NaN", b"-1"),
)
KEY = "0123456789abcdef"
FILES = ("train.index", "latents.index", "captions.index", "prepared", "tokens")
TEXT = TextSettings(32, held_out=0.2)


def make(folder: Path) -> None:
    """Write a folder of shards and one of tokens, as `elf prepare` does."""
    shards, tokens = folder / "shards", folder / "tokens"
    for each in (shards, tokens):
        shutil.rmtree(each, ignore_errors=True)
        each.mkdir(parents=True)
    placed = {"bucket": [64, 64], "resized": [64, 80], "crop": [0, 8], "width": 8, "height": 10}
    words = {"caption": "elf, leaf", "sentence": "", "trigger": "elf"}
    about = {**placed, **words, "set": 0, "stamp": "a"}
    array = np.zeros((4, 8, 8), np.float32)
    samples = {
        "train": Sample(KEY, {"png": b"a", "txt": b"elf"}, about),
        "latents": Sample(
            KEY, {"latent.npy": pack(array, "a")}, {"shape": [4, 8, 8], "stamp": "b"}
        ),
        "captions": Sample(KEY, {"text.npy": pack(array[0], "a")}, {"shape": [8, 8], "stamp": "c"}),
    }
    tars = [shards / f"{kind}-00000-of-00001.tar" for kind in samples]
    for tar, sample in zip(tars, samples.values(), strict=True):
        write_shard(tar, [sample], "recipe")
    write_prepared(shards, Settings(), {"vae": "a", "text": "b"}, tars)
    values = {
        "tokens": ("<u2", [1, 2, 3]), "trained": ("|b1", [0, 1, 1]), "offsets": ("<i8", [0, 3]),
        "ids": ("<u8", [7]), "trained_counts": ("<u4", [2]), "held_out": ("|b1", [0]),
    }  # fmt: skip
    (tokens / KEY).mkdir()
    arrays = {}
    for name, (kind, numbers) in values.items():
        writer = ArrayWriter(tokens / KEY / f"{name}.npy", kind)
        writer.append(np.array(numbers))
        writer.close()
        arrays[name] = {"dtype": kind, "count": writer.count, "sha256": writer.digest.hexdigest()}
    digests = {name: each["sha256"] for name, each in arrays.items()}
    write_checked(tokens / "meta.json", {
        "version": 1, "format": 1, "settings": TEXT.as_json(), "tokenizer": "t", "folder": KEY,
        "arrays": arrays, "index_hash": index_hash(digests),
    })  # fmt: skip


def place(folder: Path, kind: int) -> Path:
    """Return where a kind of file lies."""
    name = FILES[kind]
    if name == "tokens":
        return folder / "tokens" / "meta.json"
    if name == "prepared":
        return folder / "shards" / "prepared.json"
    return index_path(folder / "shards" / f"{name.partition('.')[0]}-00000-of-00001.tar")


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield each file without its checksum."""
    whole = folder / "whole"
    make(whole)
    for kind in range(len(FILES)):
        value = json.loads(place(whole, kind).read_bytes())
        value.pop("checksum")
        yield join(kind, json.dumps(value).encode())


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Spoil a value."""
    return data[:1] + spoiled_json(data[1:], draw)


def target(folder: Path) -> Check:
    """Return the check of a file: with a checksum, if it is an object of JSON."""
    make(folder / "used")
    whole = [place(folder / "used", kind).read_bytes() for kind in range(len(FILES))]

    def check(data: bytes) -> None:
        kind, text = split(data, len(FILES))
        path = place(folder / "used", kind)
        try:
            value = json.loads(text)
            write_checked(path, value | {"version": 1})
        except (ValueError, TypeError, RecursionError):
            path.write_bytes(text)
        try:
            use(path)
        finally:
            path.write_bytes(whole[kind])

    return check


def use(path: Path) -> None:
    """Read what a file says, and what it leads to."""
    if path.name == "meta.json":
        with refused():
            store = TokenStore.open(path.parent, TEXT, "t")
            for number in range(len(store))[:9]:
                store.document(number)
        return
    reader = Reader(path.parent)
    if path.name != "prepared.json":
        with refused():
            tar = path.with_name(path.name.replace(".index.json", ".tar"))
            read_index(tar)
            for entry in verify([tar])[0].entries:
                for start, size in entry.members.values():
                    reader(tar.name, start, size)
    with refused():
        read(read_prepared(path.parent), reader)
    reader.close()


def read(prepared: Prepared, reader: Reader) -> None:
    """Read every array that training would read."""
    for example in prepared.train:
        example.latent.read(reader)
    for states in (prepared.texts or {}).values():
        for cached in states.values():
            cached.read(reader)
