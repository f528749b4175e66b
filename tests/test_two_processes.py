"""Fault 10 for labels: two real processes write what one writes, whatever they split."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from elf.cli import main
from elf.files import read_log

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and spawn differ there")
COUNT = 24


def content(folder):
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".lock")
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (folder / "05-copy.png").write_bytes((folder / "04.png").read_bytes())
    (folder / "11-damaged.png").write_bytes((folder / "10.png").read_bytes()[:-40])
    (folder / "12-damaged.png").write_bytes(b"nonsense")
    return folder


def arguments(raw, labels, models, *more):
    return [
        *("predict", "--config", "configs/tag/quickstart.yaml"),
        f"--data.root={raw}",
        f"--data.labels={labels}",
        f"--data.cache={labels}-cache",
        "--data.batch_size=4",
        f"--model.wd.model={models['tagger']}",
        "--model.wd.threads=1",
        "--model.florence=null",
        "--trainer.enable_progress_bar=false",
        f"--trainer.default_root_dir={labels.parent}",
        *more,
    ]


def two(raw, labels, models, *more):
    """Run `elf predict` in two processes, which Lightning starts."""
    command = [sys.executable, "-m", "elf", *arguments(raw, labels, models, *more)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "--trainer.devices=2", "--trainer.strategy=ddp"],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.fault(10)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Lightning's calls of jsonargparse
def test_two_processes_give_what_one_gives(tmp_path, raw, tiny_models, capsys):
    main(arguments(raw, tmp_path / "one", tiny_models))
    assert "24 pictures labelled, 0 skipped" in capsys.readouterr().out
    result = two(raw, tmp_path / "two", tiny_models)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "24 pictures labelled, 0 skipped" in result.stdout
    assert "2 in quarantine" in result.stdout
    assert content(tmp_path / "one") == content(tmp_path / "two")
    shares = re.search(r"by process: (\d+), (\d+) pictures", result.stdout)
    assert shares and min(map(int, shares.groups())) > 0 and sum(map(int, shares.groups())) == 24
    # one process goes on with what two left: all cached, only the rules changed
    main(arguments(raw, tmp_path / "two", tiny_models, "--data.skip_existing=false",
                   "--model.rules.trigger=dryad"))  # fmt: skip
    assert "24 pictures labelled (24 from the cache)" in capsys.readouterr().out
    assert {r["tags"][0] for r in read_log(tmp_path / "two" / "manifest.jsonl")} == {"dryad"}


@pytest.mark.fault(1)
@pytest.mark.slow
def test_two_processes_killed_half_way_and_one_goes_on(tmp_path, raw, tiny_models):
    main(arguments(raw, tmp_path / "one", tiny_models))
    labels = tmp_path / "two"
    command = [sys.executable, "-m", "elf", *arguments(raw, labels, tiny_models)]
    child = subprocess.Popen(
        [*command, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while time.monotonic() < end and child.poll() is None:
        lines = sum(path.read_bytes().count(b"\n") for path in labels.glob(".journal-*.jsonl"))
        if lines >= 6:
            break
        time.sleep(0.001)
    os.killpg(child.pid, 9)
    child.wait()
    main(arguments(raw, labels, tiny_models))
    one, rest = (
        {json.dumps(r, sort_keys=True) for r in read_log(folder / "manifest.jsonl")}
        for folder in (tmp_path / "one", labels)
    )
    assert one == rest
    shutil.rmtree(labels)
