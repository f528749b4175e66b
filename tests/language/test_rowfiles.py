import io
import json
import random
import tarfile
import tracemalloc

import pytest

from elf.errors import ElfError
from elf.language import rowfiles
from elf.language.rowfiles import SeenIds, find_row_files, read_rows


def texts(*paths):
    return [row.turns[-1].content for row in read_rows(find_row_files(paths))]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_lines_are_rows_with_their_numbers(write_rows):
    path = write_rows(b'\xef\xbb\xbf{"text": "a"}', b"", b'{"text": "b"}\r', {"text": "c"})
    rows = list(read_rows([path]))
    assert [row.turns[0].content for row in rows] == ["a", "b", "c"]
    assert [row.where for row in rows] == [f"{path}:{number}" for number in (1, 3, 4)]
    path.write_bytes(b'{"text": "no line end"}')
    assert texts(path) == ["no line end"]


def test_a_folder_gives_its_files_sorted(tmp_path, write_rows):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", ".hidden/d.jsonl", "e.txt"):
        write_rows({"text": name}, name=name)
    write_tar(tmp_path / "z.tar", {"1.txt": b"of the tar"})
    assert texts(tmp_path) == ["a.jsonl", "b.jsonl", "sub/c.jsonl", "of the tar"]


def test_tars_hold_rows_and_texts(tmp_path):
    row = {"prompt": "a", "completion": "b"}
    tar = write_tar(
        tmp_path / "a.tar", {"x/1.json": json.dumps(row).encode(), "2.txt": b"c", "2.npy": b"no"}
    )
    rows = list(read_rows([tar]))
    assert [row.kind for row in rows] == ["prompt", "text"]
    assert [row.where for row in rows] == [f"{tar}/x/1.json", f"{tar}/2.txt"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, r"a.tar holds no rows: its members are to be \{id\}.json or \{id\}.txt"),
        ({"1.pickle": b"x"}, "a.tar holds no rows"),
        ({"1.jpg": b"x"}, "a.tar/1 has neither a .json nor a .txt: keep one"),
        ({"\x1b1.json": b"{}", "\x1b1.txt": b"x"}, r"a.tar/\?1 has both a .json and a .txt"),
        ({"1.json": b"{"}, r"a.tar/1.json: not JSON"),
        ({"../1.txt": b"x"}, "leads out of its folder"),
        ({"1.txt": b"x" * 101}, "a.tar/1.txt: more than 0 MiB; write it as several rows"),
    ],
)
def test_tars_that_hold_something_else_are_refused(tmp_path, monkeypatch, members, message):
    monkeypatch.setattr(rowfiles, "LONGEST_LINE", 100)
    tar = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ElfError, match=message):
        texts(tar)


@pytest.mark.fault(6)
def test_a_cut_tar_is_refused(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {f"{number}.txt": b"x" * 600 for number in range(9)})
    data = tar.read_bytes()
    for size in range(0, len(data) - 10_240, 512):
        tar.write_bytes(data[:size])
        with pytest.raises(ElfError, match=r"a\.tar"):
            texts(tar)


@pytest.mark.fault(15)
def test_paths_that_lead_nowhere(tmp_path, write_rows):
    path = write_rows({"text": "a"})
    for files, message in {
        (): "data.files names nothing: give a .jsonl",
        ("pipe:cat x",): "pipe:cat x is no file: give paths on this machine's disks",
        (path, path): "rows.jsonl is named twice in data.files: name it once",
    }.items():
        with pytest.raises(ElfError, match=message):
            find_row_files(files)
    path.unlink()
    with pytest.raises(ElfError, match=r"holds no \.jsonl and no \.tar: name a folder of rows"):
        find_row_files([tmp_path])
    with pytest.raises(ElfError, match=r"gone.jsonl could not be read \(No such file.*\): mend it"):
        list(read_rows([tmp_path / "gone.jsonl"]))


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rowfiles, "LONGEST_LINE", 1 << 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"x" * (20 << 20))
    tracemalloc.start()
    with pytest.raises(ElfError, match=r"rows.jsonl:1: a line of more than 1 MiB; write one row"):
        texts(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_a_long_file_is_not_held_in_memory(write_rows):
    path = write_rows(*[{"text": f"{number} " + "x" * 1000} for number in range(5000)])
    tracemalloc.start()
    assert sum(1 for _ in read_rows([path])) == 5000
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def damaged(data, draw):
    """Return a file with some of its bits, bytes or lines changed."""
    bits = [
        b'"',
        b"{",
        b"}",
        b"\\",
        b"\\ud800",
        b"\\u0000",
        b"\n",
        b"\xff",
        b"null",
        b"[]",
        b"1e999",
    ]
    for _ in range(draw.choice([1, 1, 2, 5])):
        data = data or b" "
        at = draw.randrange(len(data))
        match draw.randrange(4):
            case 0:
                data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[at + draw.randrange(40) :]
            case 2:
                data = data[:at] + draw.choice(bits) + data[at:]
            case _:
                data = data[:at]
    return data


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    ("seed", "cases"),
    [(0, 5_000)] + [pytest.param(seed, 50_000, marks=pytest.mark.slow) for seed in range(1, 11)],
)
@pytest.mark.timeout(3600)
def test_any_damage_is_taken_or_refused_in_one_line_with_its_place(
    tmp_path, chat, seed, cases, figures
):
    draw, cases = random.Random(seed), figures.part(cases)
    rows = [chat("s:Be brief.", "u:Hi 😀", "a:Hello"), {"prompt": "a", "completion": "b"},
            {"text": "é" * 9}]  # fmt: skip
    good = b"".join(
        json.dumps(row, ensure_ascii=draw.random() < 0.5).encode() + b"\n" for row in rows
    )
    path = tmp_path / "rows.jsonl"
    refused = set()
    for _ in range(cases):
        path.write_bytes(damaged(good, draw))
        try:
            for row in read_rows([path]):
                json.dumps([row.id, row.turns], ensure_ascii=False).encode()
        except ElfError as error:
            assert str(error).startswith(f"{path}:") and "\n" not in str(error)
            refused.add(str(error))
    assert len(refused) > 50
    figures(files=cases, other_errors=0)


def test_ids_are_seen_once():
    draw = random.Random(0)
    words = [0, 1, *(draw.getrandbits(64) for _ in range(20_000)), *range(5000, 6000)]
    seen, known = SeenIds(), set()
    for word in [*words, *draw.sample(words, 5000)]:
        assert seen.add(word) == ((word or 1) not in known)
        known.add(word or 1)
