import hashlib
import os
import random
import subprocess
import sys
import time

import pytest

from elf.caching.tagcache import HEADER, ResultCache


def key(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def payload(number):
    return bytes([number % 256]) * (number % 50)


def fill(folder, numbers):
    cache = ResultCache(folder)
    for number in numbers:
        cache.put(key(number), payload(number))
    cache.close()


def held(folder, numbers):
    cache = ResultCache(folder)
    found = [number for number in numbers if cache.get(key(number)) == payload(number)]
    cache.close()
    return found


def test_what_was_put_is_found_by_the_next(tmp_path):
    fill(tmp_path, range(100))
    fill(tmp_path, range(100, 120))
    assert held(tmp_path, range(130)) == list(range(120))
    with ResultCache(tmp_path) as cache:
        assert key(3) in cache and key(999) not in cache
        assert len(cache) == 120
    assert len(list(tmp_path.glob("*.segment"))) == 1


def test_the_newest_entry_wins(tmp_path):
    for data in (b"one", b"two"):
        cache = ResultCache(tmp_path)
        cache.put(key(1), data)
        cache.close()
    with ResultCache(tmp_path) as cache:
        assert cache.get(key(1)) == b"two"


def test_several_processes_write_segments_of_their_own(tmp_path):
    caches = [ResultCache(tmp_path) for _ in range(3)]
    for number in range(30):
        caches[number % 3].put(key(number), payload(number))
    for cache in caches:
        cache.close()
    assert len(list(tmp_path.glob("*.segment"))) == 3
    assert held(tmp_path, range(30)) == list(range(30))
    fill(tmp_path, [30])  # a later process goes on in the first free segment
    assert len(list(tmp_path.glob("*.segment"))) == 3


@pytest.mark.fault(4)
def test_a_segment_cut_anywhere_loses_its_last_entry_alone(tmp_path):
    fill(tmp_path, range(4))
    segment = tmp_path / "000.segment"
    data = segment.read_bytes()
    last = HEADER.size + len(payload(3))
    for cut in range(len(data) - last, len(data)):
        segment.write_bytes(data[:cut])
        assert held(tmp_path, range(4)) == [0, 1, 2], cut
    fill(tmp_path, [3])
    assert segment.read_bytes() == data


@pytest.mark.fault(5)
def test_a_flipped_bit_is_a_missing_entry_and_never_a_wrong_one(tmp_path):
    fill(tmp_path, range(40, 44))
    segment = tmp_path / "000.segment"
    data = segment.read_bytes()
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1 << position % 8
        segment.write_bytes(broken)
        cache = ResultCache(tmp_path)
        found = [cache.get(key(number)) for number in range(40, 44)]
        cache.close()
        wrong = [
            data_
            for number, data_ in zip(range(40, 44), found, strict=True)
            if data_ not in (None, payload(number))
        ]
        assert not wrong and None in found, position


@pytest.mark.fault(7)
def test_a_full_disk_ends_the_caching_and_not_the_run(tmp_path, monkeypatch):
    fill(tmp_path, [1])

    def full(*_):
        raise OSError(28, "No space left on device")

    cache = ResultCache(tmp_path)
    monkeypatch.setattr("elf.caching.tagcache._append", full)
    with pytest.warns(UserWarning, match=r"could not be written \(No space left on device\); the"):
        cache.put(key(2), b"x")
    cache.put(key(3), b"x")  # once is enough
    cache.close()
    assert held(tmp_path, [1]) == [1]


def test_half_an_entry_is_taken_back(tmp_path, monkeypatch):
    import elf.caching.tagcache

    fill(tmp_path, [1])
    before = (tmp_path / "000.segment").read_bytes()

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[:7])
            raise OSError(28, "No space left on device")

    with open(tmp_path / "000.segment", "ab", buffering=0) as file:
        with pytest.raises(OSError):
            elf.caching.tagcache._append(Full(file), b"x" * 30)
    assert (tmp_path / "000.segment").read_bytes() == before


WRITER = """
import hashlib, sys
from elf.caching.tagcache import ResultCache
cache = ResultCache(sys.argv[1])
print("open", flush=True)
for number in range(400):
    key = hashlib.sha256(str(number).encode()).hexdigest()
    if key not in cache:
        cache.put(key, bytes([number % 256]) * (number % 50))
        print(number, flush=True)
print("done", flush=True)
"""


@pytest.mark.fault(1)
@pytest.mark.skipif(sys.platform == "win32", reason="no signal 9")
def test_kill_9_at_random_instants_loses_nothing_that_was_put(tmp_path):
    draw = random.Random(0)
    acknowledged = set()
    for _ in range(12):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert child.stdout.readline() == "open\n"
        time.sleep(draw.uniform(0, 0.02))
        child.kill()
        acknowledged |= {int(line) for line in child.stdout.read().split() if line != "done"}
        child.stdout.close()
        child.wait()
        assert set(held(tmp_path, range(400))) >= acknowledged
