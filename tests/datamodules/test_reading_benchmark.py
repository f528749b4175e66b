import json
import runpy
import sys

import pytest


# the webdataset library leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_benchmark_runs(tmp_path, monkeypatch, capsys):
    path = tmp_path / "rows.json"
    arguments = ["--samples", "40", "--order", "1000", "--repeats", "1", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks/reading.py", *arguments])
    runpy.run_path("benchmarks/reading.py", run_name="__main__")
    rows = json.loads(path.read_text())["rows"]
    assert [row["name"] for row in rows][:2] == [
        "order of 1,000 samples: time", "order of 1,000 samples: memory"
    ]  # fmt: skip
    assert all(row["value"] > 0 for row in rows if "memory" not in row["name"])
    assert "cached latents, beside the library" in capsys.readouterr().out
