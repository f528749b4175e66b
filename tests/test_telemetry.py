"""Nothing that Elf runs on reports to anybody what is done with it."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
import elf
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
print(os.environ["HF_HUB_DISABLE_TELEMETRY"], os.environ["FIFTYONE_DO_NOT_TRACK"])
"""
SWITCHES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "FIFTYONE_DO_NOT_TRACK")


def run(home: Path, **more: str) -> str:
    around = {key: value for key, value in os.environ.items() if key not in SWITCHES}
    around |= {"HOME": str(home), "XDG_CACHE_HOME": "", "PYTHONPATH": os.getcwd()} | more
    model = next(Path("models/tiny/tagger").glob("*.onnx"))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model)],
        env=around, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_no_library_collects_reports(tmp_path: Path) -> None:
    """onnxruntime does so in a database in the home folder, until it can send them."""
    assert run(tmp_path) == "1 1\n"
    assert not list(tmp_path.rglob("*onnxruntime*"))


def test_what_a_user_has_set_stays(tmp_path: Path) -> None:
    assert run(tmp_path, FIFTYONE_DO_NOT_TRACK="0") == "1 0\n"
