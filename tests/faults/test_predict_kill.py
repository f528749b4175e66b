"""Fault 1: kill -9 while tagging. Nothing is lost, nothing doubled, the end is the same."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from elf.cli import main
from elf.files import read_log
from elf.labels.manifest import LabelFolder
from elf.labels.records import labelled_ids

pytestmark = [
    pytest.mark.fault(1),
    pytest.mark.skipif(sys.platform == "win32", reason="no signal 9"),
]

PICTURES = 40
WRITER = """
import sys
from elf.labels.manifest import LabelFolder
labels = LabelFolder(sys.argv[1])
skipped = set(labels.ids)
print("open", flush=True)
count, rules, batch = int(sys.argv[2]), int(sys.argv[4]), []
for number in range(count):
    key = f"{number:016x}"
    if number % 9 == 4:
        labels.quarantine({"id": key, "path": f"{number}.png", "sha256": "", "reason": "damaged"})
    elif key not in skipped or sys.argv[3] == "relabel":
        tags = ["wood_elf", *"abcdefgh" * number][rules * number % 7 :]
        batch.append({"id": key, "tags": tags, "caption": None, "attributes": {"text": "tags"}})
    if batch and (number % 4 == 3 or number == count - 1):
        labels.write(*batch)
        print(*(record["id"] for record in batch), flush=True)
        batch = []
labels.finish()
labels.close()
print("done", flush=True)
"""


def content(folder):
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")
    }


def start_writer(folder, mode="label", rules=0):
    command = [sys.executable, "-c", WRITER, str(folder), str(PICTURES), mode, str(rules)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_at_random(child, draw):
    """Kill a writer and return the ids that it acknowledged, and whether it was done."""
    assert child.stdout.readline() == "open\n"
    time.sleep(draw.uniform(0, 0.012))
    child.kill()
    lines = child.stdout.read().split()
    child.wait()
    child.stdout.close()
    return {line for line in lines if line != "done"}, "done" in lines


def kill_writers(tmp_path, kills, mode, figures):
    clean = start_writer(tmp_path / "clean")
    clean.communicate(timeout=60)
    expected = content(tmp_path / "clean")
    draw = random.Random(0)
    killed = runs = lost = doubled = 0
    while killed < kills:
        folder = tmp_path / f"{mode}-{runs}"
        runs += 1
        if mode == "relabel":
            start_writer(folder).communicate(timeout=60)
        acknowledged, done = set(), False
        for number in range(6):
            rules = number % 4 if mode == "relabel" else 0  # longer texts and shorter ones
            written, done = kill_at_random(start_writer(folder, mode, rules), draw)
            acknowledged |= written
            killed += not done
            lost += len(acknowledged - labelled_ids(folder))
            ids = [record["id"] for record in read_log(folder / "manifest.jsonl")]
            doubled += len(ids) - len(set(ids))
            assert lost == doubled == 0
            if done:
                break
        start_writer(folder, mode).communicate(timeout=60)
        assert content(folder) == expected
    figures(kills=killed, lost=lost, doubled=doubled)


@pytest.mark.parametrize("mode", ["label", "relabel"])
def test_a_writer_killed_at_random_instants(tmp_path, mode, figures):
    kill_writers(tmp_path, 20, mode, figures)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["label", "relabel"])
@pytest.mark.timeout(1800)
def test_a_writer_killed_at_many_random_instants(tmp_path, mode, figures):
    kill_writers(tmp_path, figures.part(500), mode, figures)


def test_the_lock_of_a_killed_writer_is_free(tmp_path):
    kill_at_random(start_writer(tmp_path), random.Random(1))
    LabelFolder(tmp_path).close()


def make_crops(folder, count):
    """Crops of a photograph, and among them what a real folder has: damage and copies."""
    from skimage.data import astronaut

    folder.mkdir()
    photograph = Image.fromarray(astronaut())
    for number in range(count):
        left, top = 17 * number % 400, 11 * number % 390
        size = (left, top, left + 60 + number % 30, top + 70)
        photograph.crop(size).save(folder / f"{number:03}.png")
    (folder / "020-damaged.png").write_bytes((folder / "020.png").read_bytes()[:-50])
    (folder / "150-copy.png").write_bytes((folder / "003.png").read_bytes())


def lines_of(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's calls of jsonargparse
def test_elf_predict_killed_half_way_and_started_again(tmp_path, tiny_models, capsys):
    make_crops(tmp_path / "raw", 200)
    arguments = [
        *("predict", "--config", "configs/tag/quickstart.yaml"),
        *("--data.init_args.root", str(tmp_path / "raw")),
        *("--model.init_args.wd.model", str(tiny_models["tagger"])),
        *("--model.init_args.florence.model", str(tiny_models["captioner"])),
        *("--model.init_args.florence.max_new_tokens", "16"),
        *("--trainer.default_root_dir", str(tmp_path)),
        *("--trainer.enable_progress_bar", "false"),
        *("--data.init_args.cache", str(tmp_path / "cache")),
        "--data.init_args.labels",
    ]
    manifest = tmp_path / "killed" / "manifest.jsonl"
    command = [sys.executable, "-m", "elf", *arguments, str(tmp_path / "killed")]
    child = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 120
    while lines_of(manifest) < 90 and child.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 90 <= lines_of(manifest) < 180

    main([*arguments, str(tmp_path / "killed")])
    assert "150-copy.png has the same bytes as 003.png" in capsys.readouterr().out
    main([*arguments, str(tmp_path / "whole")])
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert lines_of(manifest) == 200
    (damaged,) = read_log(tmp_path / "killed" / "quarantine.jsonl")
    assert damaged["path"] == "020-damaged.png"
