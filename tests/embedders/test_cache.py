"""Rows on the disk: the very bits, computed once, whatever happens to the process."""

import inspect
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elf.caching.tagcache import ResultCache
from elf.embedders import CLIPEmbedder, EmbeddingCache, open_pictures, pixel_key
from elf.errors import ElfError


class Counting(CLIPEmbedder):
    """The tiny CLIP, which notes how many pictures it was given at once."""

    def __init__(self) -> None:
        super().__init__("models/tiny/clip", torch.device("cpu"))
        self.calls: list[int] = []

    def pictures(self, pictures: list[Image.Image], names: Sequence[str] = ()) -> np.ndarray:
        self.calls.append(len(pictures))
        return super().pictures(pictures, names)


@pytest.fixture(scope="module")
def loaded() -> Counting:
    return Counting()


@pytest.fixture
def embedder(loaded: Counting) -> Counting:
    loaded.calls = []
    return loaded


def named(pictures: Sequence[Image.Image]) -> list[tuple[str, Image.Image]]:
    return [(f"{number}.png", picture) for number, picture in enumerate(pictures)]


def noise(count: int, seed: int = 0) -> Iterator[Image.Image]:
    draw = np.random.default_rng(seed)
    for _ in range(count):
        yield Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))


def test_rows_come_back_to_the_bit_without_the_model(
    tmp_path: Path, embedder: Counting, drawings: list[Image.Image]
) -> None:
    with EmbeddingCache(tmp_path, embedder, batch_size=3) as cache:
        first = cache.array(named(drawings))
    assert embedder.calls == [3, 3, 1]
    with EmbeddingCache(tmp_path, embedder) as cache:
        again = cache.array(named(drawings[::-1]))
    assert embedder.calls == [3, 3, 1]
    assert again.dtype == np.float32
    assert again.tobytes() == first[::-1].tobytes()
    np.testing.assert_allclose(first, embedder.pictures(drawings), atol=1e-5)


def test_each_picture_is_embedded_once(
    tmp_path: Path, embedder: Counting, drawings: list[Image.Image]
) -> None:
    with EmbeddingCache(tmp_path, embedder, batch_size=3) as cache:
        rows = cache.array(named(drawings[:4]))
        assert embedder.calls == [3, 1]
        again = cache.array(named(drawings))  # some are there, some are new
        assert embedder.calls == [3, 1, 3, 1], "a batch with new ones is embedded whole"
    np.testing.assert_array_equal(again[:4], rows)
    assert not np.allclose(rows[0], rows[1])


def test_without_a_folder_nothing_is_kept(
    tmp_path: Path, embedder: Counting, drawings: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedder, "name", "elsewhere")
    with EmbeddingCache(None, embedder) as cache:
        first, again = cache.array(named(drawings)), cache.array(named(drawings))
    np.testing.assert_array_equal(first, again)
    assert embedder.calls == [len(drawings)] * 2
    assert list(tmp_path.iterdir()) == []


def test_another_fingerprint_is_another_cache(
    tmp_path: Path, embedder: Counting, drawings: list[Image.Image]
) -> None:
    with EmbeddingCache(tmp_path, embedder) as cache:
        cache.array(named(drawings))
    other = Counting()
    other.__dict__["fingerprint"] = "0" * 64
    with EmbeddingCache(tmp_path, other) as cache:
        cache.array(named(drawings))
    assert other.calls == [len(drawings)]
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == ["clip-", "clip-"]


def test_pictures_of_a_batch_are_let_go_before_the_next(tmp_path: Path, embedder: Counting) -> None:
    held: list[weakref.ref[Image.Image]] = []
    most = 0

    def watched() -> Iterator[tuple[str, Image.Image]]:
        nonlocal most
        for number, picture in enumerate(noise(40)):
            held.append(weakref.ref(picture))
            most = max(most, sum(reference() is not None for reference in held))
            yield str(number), picture

    with EmbeddingCache(tmp_path, embedder, batch_size=4) as cache:
        rows = 0
        for row in cache.rows(watched()):
            assert row.shape == (96,)
            rows += 1
    assert rows == 40
    assert most <= 2 * 4


def test_no_pictures_are_no_rows(tmp_path: Path, embedder: Counting) -> None:
    with EmbeddingCache(tmp_path, embedder) as cache:
        assert cache.array([]).shape == (0, 0)


def test_a_key_is_of_size_and_pixels_alone(tmp_path: Path, drawings: list[Image.Image]) -> None:
    picture = drawings[0]
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.png", compress_level=1, dpi=(300, 300))
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    opened = dict(open_pictures([tmp_path / "a.png", str(tmp_path / "b.png")]))
    assert {pixel_key(p) for p in opened.values()} == {pixel_key(picture)}
    turned = Image.frombytes("RGB", (picture.height, picture.width), picture.tobytes())
    grey = Image.frombytes("L", (3 * picture.width, picture.height), picture.tobytes())
    assert len({pixel_key(p) for p in (picture, turned, grey, drawings[1])}) == 4


def test_what_is_not_finite_is_named_and_not_kept(tmp_path: Path) -> None:
    embedder = Counting()
    with torch.no_grad():
        embedder.model.visual_projection.weight[0, 0] = torch.nan
    with EmbeddingCache(tmp_path, embedder) as cache:
        with pytest.raises(ElfError, match=r"not finite \(NaN or infinite\) for 0\.png; its"):
            cache.array(named(list(noise(2))))
    assert not list(tmp_path.rglob("*.segment"))


def test_a_picture_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ElfError, match=r"bad\.png: not a picture of a known .*; replace or remove"):
        list(open_pictures([tmp_path / "bad.png"]))
    with pytest.raises(ElfError, match=r"none\.png: could not be read \(No such file"):
        list(open_pictures([tmp_path / "none.png"]))


def test_a_damaged_row_is_computed_again(
    tmp_path: Path, embedder: Counting, drawings: list[Image.Image]
) -> None:
    with EmbeddingCache(tmp_path, embedder) as cache:
        first = cache.array(named(drawings))
    (segment,) = tmp_path.rglob("*.segment")
    data = bytearray(segment.read_bytes())
    data[-10] ^= 1  # of the last row
    segment.write_bytes(data)
    with EmbeddingCache(tmp_path, embedder) as cache:
        again = cache.array(named(drawings))
    assert embedder.calls == [len(drawings)] * 2
    np.testing.assert_array_equal(again, first)  # among the same others, so to the last bit


class Means:
    """The mean colour: an embedder that starts in no time."""

    kind = "clip"
    name = "means"
    fingerprint = "0" * 64

    def pictures(self, pictures: list[Image.Image], names: Sequence[str] = ()) -> np.ndarray:
        return np.stack([np.asarray(picture, np.float32).mean((0, 1)) for picture in pictures])


WRITER = """
import sys
from collections.abc import Sequence
import numpy as np
from PIL import Image
from elf.embedders.cache import EmbeddingCache

draw = np.random.default_rng(0)
def noise(count):
    for _ in range(count):
        yield Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8))

with EmbeddingCache(sys.argv[1], Means(), batch_size=1) as cache:
    print("open", flush=True)
    sys.stdin.readline()
    for number, _ in enumerate(cache.rows((str(n), p) for n, p in enumerate(noise(COUNT)))):
        print(number, flush=True)
"""
COUNT = 100_000


def start(folder: Path) -> subprocess.Popen[str]:
    script = WRITER.replace("\ndraw", f"\n{inspect.getsource(Means)}\ndraw", 1)
    return subprocess.Popen(
        [sys.executable, "-c", script.replace("COUNT", str(COUNT)), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.fault(1)
@pytest.mark.skipif(sys.platform == "win32", reason="no signal 9")
def test_two_processes_and_kill_9_lose_no_row_that_was_handed_out(tmp_path: Path) -> None:
    pair = [start(tmp_path), start(tmp_path)]
    for child in pair:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
    for child in pair:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    reached = []
    for child in pair:
        assert child.stdout is not None
        while child.stdout.readline() != "50\n":  # by now both have written
            assert child.poll() is None
    for child in pair:
        child.kill()
        with child:  # what was read ahead is lost to communicate()
            assert child.stdout is not None
            reached += [50, *map(int, child.stdout.read().splitlines()[:-1])]
    assert max(reached) < COUNT - 1  # killed on their way
    pictures = list(noise(max(reached) + 1))
    with ResultCache(tmp_path / f"clip-{'0' * 32}-1") as kept:
        assert all(pixel_key(picture) in kept for picture in pictures)
    with EmbeddingCache(tmp_path, Means()) as cache:
        rows = cache.array(named(list(noise(max(reached) + 100))))
    expected = Means().pictures(list(noise(max(reached) + 100)))
    assert rows.tobytes() == expected.tobytes()
    assert len(list(tmp_path.rglob("*.segment"))) == 2
