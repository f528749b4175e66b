"""Fault 4: what commands read as JSON Lines, cut at every byte of its last three records.

Only the torn tail goes: the outcome is that of a log that ends with its last whole record.
"""

import json
import random
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from elf.caching.fileindex import FileIndex
from elf.curation.verdicts import accept, apply_file, read_verdicts
from elf.errors import ElfError
from elf.files import read_log, sha256_file
from elf.images import picture_id
from elf.labels.decisions import DECISIONS, add_decisions, read_decisions
from elf.labels.manifest import LabelFolder
from elf.labels.records import labelled_ids, read_records
from elf.preparation.labelled import read_labelled
from elf.preparation.prepare import prepare
from elf.preparation.sets import PictureSet
from elf.preparation.settings import Settings
from elf.rename import rename, undo
from elf.renamejournal import JOURNAL

pytestmark = pytest.mark.fault(4)
IDS = [f"{number:016x}" for number in range(5)]


def cuts(data):
    """Yield a log cut at every byte of its last three records, and what is whole of it."""
    lines = data.splitlines(keepends=True)
    for size in range(len(b"".join(lines[:-3])), len(data) + 1):
        # a record is whole without its line's end, too
        yield data[:size], data[: data.rfind(b"\n", 0, size + 1) + 1]


def attempt(function):
    try:
        return function()
    except ElfError as error:
        assert "\n" not in str(error)
        return str(error)


def outcomes(path, function):
    """Return what comes of a log with all, and with up to three fewer, of its records."""
    data, expected = path.read_bytes(), {}
    for cut, whole in cuts(data):
        if whole not in expected:
            path.write_bytes(whole)
            expected[whole] = attempt(function)
        path.write_bytes(cut)
        assert attempt(function) == expected[whole], cut
    return [expected[whole] for whole in sorted(expected, key=len, reverse=True)]


def write_picture(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (9 + number, 8, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return picture_id(path.read_bytes())


# --- the manifest, for prepare --------------------------------------------------------------------


@pytest.fixture(params=[3, 5], ids=["three", "five"])
def labelled(tmp_path, request):
    """So many labelled pictures, as a set."""
    (tmp_path / "labels").mkdir()
    records = []
    for number in range(request.param):
        key = write_picture(tmp_path / f"raw/{number}.png", number)
        (tmp_path / f"labels/{key}.txt").write_text("tok\n")
        records.append({"id": key, "path": f"{number}.png", "tags": [], "caption": "größer"})
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (tmp_path / "labels/manifest.jsonl").write_text(lines, encoding="utf-8")
    return PictureSet(str(tmp_path / "raw"), labels=str(tmp_path / "labels"))


def test_prepare_leaves_out_by_name_what_a_cut_manifest_does_not_hold(labelled, tmp_path):
    def read():
        found, dropped = read_labelled(labelled)
        return sorted(source.path for source in found), [(d.path, d.reason) for d in dropped]

    count = len(list((tmp_path / "raw").iterdir()))
    names = [f"{number}.png" for number in range(count)]
    for fewer, outcome in enumerate(outcomes(tmp_path / "labels/manifest.jsonl", read)):
        if fewer == count:
            assert "is empty, so nothing is labelled: run `elf predict`" in outcome
            continue
        left = [(name, "not labelled") for name in names[count - fewer :]]
        assert outcome == (names[: count - fewer], left)


def test_shards_of_a_cut_manifest_are_those_of_its_whole_records(
    labelled, tmp_path, pooling_encoder
):
    def shards(data):
        manifest.write_bytes(data)
        folder = tmp_path / "shards"
        shutil.rmtree(folder, ignore_errors=True)
        settings = Settings(resolution=64, bucket_step=8, held_out=0.0)
        said = attempt(lambda: prepare(pooling_encoder, settings, tmp_path / "raw", labels, folder))
        return str(said), {path.name: path.read_bytes() for path in folder.glob("[!.]*")}

    labels = tmp_path / "labels"
    manifest = labels / "manifest.jsonl"
    some = random.Random(0).sample(list(cuts(manifest.read_bytes())), 5)
    assert all(shards(cut) == shards(whole) for cut, whole in some)


# --- labels, for predict --------------------------------------------------------------------------


def record(number):
    return {"id": IDS[number], "path": f"{number}.png", "tags": ["a"], "caption": "größer"}


def write_log(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("manifest.jsonl", [4, 3, 2, 1]),
        ("quarantine.jsonl", [2, 2, 2, 2]),
        (".journal-00000.jsonl", [4, 3, 2, 2]),
        (".journal-relabelled.jsonl", [4, 3, 2, 2]),
    ],
)
def test_labels_are_opened_with_what_is_whole_of_each_of_their_logs(
    tmp_path, monkeypatch, name, counts
):
    def opened():
        folder = tmp_path / "labels"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "written", folder)
        ids = labelled_ids(folder)
        LabelFolder(folder).close()
        held = {path.name: path.read_bytes() for path in folder.glob("*.*")}
        assert {entry["id"] for entry in read_records(folder / "manifest.jsonl")} == ids
        return ids, held

    monkeypatch.setattr("elf.labels.manifest.sync_disks", lambda: None)  # slow, and of all disks
    write_log(tmp_path / "written/manifest.jsonl", map(record, range(2)))
    first = 1 if "journal" in name else 0  # one that is labelled again
    again = (record(number) | {"caption": "größer noch"} for number in range(first, 4))
    write_log(tmp_path / "written" / name, again)
    found = outcomes(tmp_path / "written" / name, opened)
    assert [len(ids) for ids, _ in found] == counts
    files = [held for _, held in found]
    assert all(files.count(held) == 1 for held in files)


# --- decisions, for curate, predict and label ----------------------------------------------------


def test_decisions_hold_up_to_the_cut_and_more_can_be_added(tmp_path):
    def decided():
        path = tmp_path / "labels" / DECISIONS
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((tmp_path / DECISIONS).read_bytes())
        before = read_decisions(path.parent), read_verdicts(path.parent)
        accept(path.parent, dict.fromkeys(IDS, "dark"), before[1])
        return *before, read_decisions(path.parent), read_log(path)

    add_decisions(tmp_path, [{"id": IDS[n], "keep": n > 1} for n in (0, 1, 2)])
    add_decisions(tmp_path, [{"id": IDS[1], "keep": None}, {"id": IDS[0], "caption": "größer"}])
    found = outcomes(tmp_path / DECISIONS, decided)
    assert [len(verdicts) for _, verdicts, *_ in found] == [2, 2, 3, 2]
    assert all(len(after) == len(IDS) for *_, after, _ in found)


def test_choices_of_a_contact_sheet_that_were_cut_are_not_taken(tmp_path):
    file = tmp_path / "choices.jsonl"
    write_log(file, [{"id": key, "keep": False, "path": "größer.png"} for key in IDS])
    data = file.read_bytes()
    for cut, whole in cuts(data):
        file.write_bytes(cut)
        labels = tmp_path / "labels"
        shutil.rmtree(labels, ignore_errors=True)
        if cut in (whole, whole[:-1]):
            assert apply_file(labels, file) == (whole.count(b"\n"),) * 2
            continue
        with pytest.raises(ElfError, match=r"choices.jsonl is cut in its line \d: save it from th"):
            apply_file(labels, file)
        assert not labels.exists()


# --- what is known about files, for curate and predict -------------------------------------------


def test_an_index_of_files_that_was_cut_costs_only_reading_again(tmp_path, monkeypatch):
    monkeypatch.setattr("elf.caching.fileindex.FINE", 0)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        write_picture(path, number)
    index = FileIndex(tmp_path / "cache")
    digests = [index.sha256(path) for path in paths]
    index.close()
    assert digests == [sha256_file(path) for path in paths]

    def known():
        index = FileIndex(tmp_path / "cache")
        return [index.lookup(path) for path in paths]

    found = outcomes(tmp_path / "cache/files-000.jsonl", known)
    assert found == [[*digests[: 4 - lost], *[None] * lost] for lost in range(4)]


# --- the journal of rename -----------------------------------------------------------------------


def content(root):
    return {path.name: path.read_bytes() for path in root.glob("[!.]*")}


@pytest.fixture(scope="module")
def renamed(tmp_path_factory):
    """A folder before `elf rename` and after it, and the journal as it was and as it is."""
    folder = tmp_path_factory.mktemp("renamed")
    for number in range(3):
        write_picture(folder / f"before/grö-{number}.png", number)
    shutil.copytree(folder / "before", folder / "after")
    rename(folder / "after")
    lines = (folder / "after" / JOURNAL).read_bytes().splitlines(keepends=True)
    return folder, {"before": b"".join(lines[:-1]), "after": b"".join(lines)}


def run_with_journal(renamed, root, state, journal, *commands):
    """Return the folder after each command, and what was warned of."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(renamed[0] / state, root)
    (root / JOURNAL).write_bytes(journal)
    found = []
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for command in commands:
            command(root)
            found.append(content(root))
    assert not list(root.glob(f"{JOURNAL}*.tmp"))
    return found, [str(warning.message) for warning in warned]


def test_a_run_that_was_killed_while_it_noted_its_renames_leaves_no_trace(renamed, tmp_path):
    before, after = (content(renamed[0] / name) for name in ("before", "after"))
    for cut, _ in cuts(renamed[1]["before"]):
        states, warned = run_with_journal(renamed, tmp_path / "raw", "before", cut, rename, undo)
        assert states == [after, before] and warned == [], cut


@pytest.mark.parametrize("again", [False, True], ids=["undo", "rename-undo"])
def test_undo_brings_back_what_a_cut_journal_names_and_says_that_there_were_more(
    renamed, tmp_path, again
):
    before, after = (content(renamed[0] / name) for name in ("before", "after"))
    ids = {data: name for name, data in after.items()}
    for cut, whole in cuts(renamed[1]["after"]):
        commands = [rename, undo] if again else [undo]
        states, warned = run_with_journal(renamed, tmp_path / "raw", "after", cut, *commands)
        named = {json.loads(line).get("from") for line in whole.splitlines()}
        back = {name if name in named else ids[data]: data for name, data in before.items()}
        assert states == [*([after] if again else []), back], cut
        kept = len(before.keys() - named)
        assert [f"it named {3 - kept} of 3 files; the others keep" in w for w in warned] == (
            [True] if kept else []
        )
