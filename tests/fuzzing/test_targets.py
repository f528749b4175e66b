"""What the fuzzer is given, without the fuzzer; and, in the long column, with it."""

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
QUICK = ("pictures", "tars", "shards", "logs", "rows", "reports")
"""Targets whose whole files are read in a moment."""
INPUTS = {"pictures": 200_000, "tars": 200_000, "shards": 200_000, "logs": 50_000, "rows": 300_000,
          "configs": 20_000, "adapters": 50_000, "bases": 50_000, "reports": 300_000}  # fmt: skip


@pytest.fixture(autouse=True)
def _scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.filterwarnings("ignore")
def test_whole_files_pass_in_time_and_memory(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"targets.{name}")
    oracle = importlib.import_module("oracle")
    check = module.target(tmp_path)
    for seed in module.seeds(tmp_path):
        check(seed)  # whatever is imported late
        oracle.measured(check)(seed)


def test_spoiling_changes_what_it_is_given() -> None:
    import random

    spoiling = importlib.import_module("spoiling")
    draw = random.Random(0)
    text = b'{"id": "a", "tags": ["b", {"c": 1}]}'
    assert len({spoiling.spoiled_json(text, draw) for _ in range(400)}) > 90
    assert spoiling.spoiled_json(b"no JSON", draw) == b"no JSON"
    lines = b"\n".join([text] * 3)
    assert len({spoiling.spoiled_lines(lines, draw).count(b"\n") for _ in range(50)}) == 3


def test_the_oracle_knows_what_must_not_be() -> None:
    import time

    from elf.errors import ElfError

    oracle = importlib.import_module("oracle")
    with oracle.refused():
        raise ElfError("one line")
    for error in (ElfError("two\nlines"), ElfError(" ")):
        with pytest.raises(oracle.Finding, match="no single line"), oracle.refused():
            raise error
    with pytest.raises(KeyError), oracle.refused():
        raise KeyError("a")

    def busy(_: bytes) -> None:
        end = time.process_time() + 1.1 * oracle.SECONDS
        while time.process_time() < end:
            pass

    with pytest.raises(oracle.Finding, match=r"took 1\.\d s"):
        oracle.measured(busy)(b"")


def test_a_failure_is_kept_once_and_the_fuzzer_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = importlib.import_module("run")

    def check(data: bytes) -> None:
        if data == b"bad":
            raise KeyError("a")
        {}[data]

    findings = run.Findings(check, tmp_path)
    for data in (b"bad", b"bad", b"worse", b"bad"):
        findings(data)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[:2] for line in lines] == [["found:", "KeyError"]] * 2
    assert sorted(path.read_bytes() for path in tmp_path.glob("found-*")) == [b"bad", b"worse"]
    assert all(len(path.name) == len("found-") + 8 for path in tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", INPUTS)
def test_no_input_of_the_fuzzer_does_harm(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("the fuzzer is not installed: pip install 'elf[fuzz]'")
    count = INPUTS[name]
    script = str(HERE / "run.py")
    options = [f"--inputs={count}", f"--corpus={tmp_path / 'corpus'}"]
    done = subprocess.run(
        [sys.executable, script, name, *options], capture_output=True, text=True, timeout=7200
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    assert not re.findall("^found: .*", said, re.MULTILINE)
    assert f"number_of_executed_units: {count}" in said
    (first,), last = re.findall(r"INITED cov: (\d+)", said), re.findall(r"DONE   cov: (\d+)", said)
    assert int(last[0]) > int(first), "coverage guides it"
