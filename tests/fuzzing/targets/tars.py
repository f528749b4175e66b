"""Tars that others wrote: their pictures, and their rows of text."""

import io
import random
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from oracle import Check, refused

sys.path.append(str(Path(__file__).parents[2] / "faults"))

from test_fuzzed_pictures import seeds as whole_pictures

from elf.language.rowfiles import read_rows
from elf.preparation.sets import PictureSet
from elf.preparation.tarsources import read_tars

READ_BY = ("tarfile",)
LONGEST = 1 << 15
WORDS = (
    *(b"ustar\x0000", b"ustar  \0", b"././@LongLink", b".mask.png", b".json", b".txt", b".png"),
    *(b"../", b"GNU.sparse.major=1\n", b"GNU.sparse.map=0,1\n", b"20 path=../../a.png\n"),
    *(b"9 size=\xff\n", b"\xff" * 12, b"0000000", b"7777777", b'{"caption": ', b"{}"),
)
BLOCK = 512


def seeds(folder: Path) -> Iterator[bytes]:
    """Yield tars of every form, with pictures, captions, masks and rows."""
    picture = min(whole_pictures(), key=len)
    members = {
        "a/one.png": picture, "a/one.txt": b"a leaf", "two.png": picture, "two.mask.png": picture,
        "two.json": b'{"caption": "two"}', "three.txt": b"some words",
    }  # fmt: skip
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for names in (
            members,
            {"x" * 60 + "/" + "y" * 60 + ".png": picture, "ü.txt": b"u"},
            {"r.txt": b"row"},
        ):
            buffer = io.BytesIO()
            if form != tarfile.USTAR_FORMAT:
                names = {"z" * 120 + name: data for name, data in names.items()}
            with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
                for name, data in names.items():
                    about = tarfile.TarInfo(name)
                    about.size = len(data)
                    tar.addfile(about, io.BytesIO(data))
            # a tar is filled up to 10,240 bytes: nothing is left in the end but zeros
            whole = buffer.getvalue().rstrip(b"\0")
            yield whole + bytes(-len(whole) % BLOCK + 2 * BLOCK)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Change a field of a header, or move a block; the sums of the headers are right again."""
    blocks = [bytearray(data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    heads = [block for block in blocks if block[257:262] == b"ustar"]
    if not heads:
        return data
    head = draw.choice(heads)
    match draw.randrange(5):
        case 0:
            start, length = draw.choice([(0, 100), (100, 8), (124, 12), (136, 12), (156, 1),
                                         (157, 100), (257, 8), (345, 155)])  # fmt: skip
            value = draw.choice(
                [
                    b"\0",
                    b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
                    b"x" * 155,
                    b"../a.png",
                    b"7" * 11,
                    b"\xff" * 12,
                    b"a.png",
                    b"a.txt",
                ]
            )
            head[start : start + length] = value[:length].ljust(length, b"\0")
        case 1:
            head[156] = draw.choice(b"0123456789LKSgxXDMNV\0")
        case 2:
            head[draw.randrange(345)] = draw.randrange(256)
        case 3:
            blocks.insert(draw.randrange(len(blocks) + 1), bytearray(draw.choice(blocks)))
        case _:
            del blocks[draw.randrange(len(blocks))]
    for block in blocks:
        if block[257:262] == b"ustar" and len(block) == BLOCK:
            block[148:156] = b" " * 8
            block[148:156] = b"%06o\0 " % sum(block)
    return b"".join(blocks)


def target(folder: Path) -> Check:
    """Return the check of a tar."""
    path = folder / "stranger.tar"
    threads = ThreadPoolExecutor(1)
    each = PictureSet(tars=str(path), default_caption="a picture", alpha_mask=True)

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with refused():
            for source in read_tars(each, 0, threads)[0]:
                source.location.read()
        with refused():
            for _ in read_rows([path]):
                pass

    return check
