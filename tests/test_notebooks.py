"""The notebooks run on the drawn world, say something, and are kept without what they said."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def place(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a quickstart has labelled its pictures."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "models/quickstart").mkdir(parents=True)
    for name in ("pictures", "labels"):
        (folder / "models/quickstart" / name).symlink_to(labelled / name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def executed(path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a notebook and return what each of its cells printed or showed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("IPYTHONDIR", str(place / ".ipython"))
    notebook = read(path)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(place)}})
    client.execute()
    said = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            texts = [each.get("text") or str(each.get("data", "")) for each in cell.outputs]
            said.append("".join(texts))
    return said


def test_there_are_two() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "explore_labelled_set.ipynb",
        "review_labels.ipynb",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_kept_without_outputs(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_a_labelled_set_is_explored(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = executed(NOTEBOOKS[0], place, monkeypatch)
    whole = "\n".join(said)
    assert "24 labelled pictures" in said[0]
    for phrase in ("different tags", "64 × 64 px", "cropped away: ", "words a caption: "):
        assert phrase in whole, phrase
    assert "0 in quarantine" in said[-1]


def test_labels_are_reviewed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = place / "models/quickstart/labels"
    before = contents(labels)
    said = executed(NOTEBOOKS[1], place, monkeypatch)
    assert "24 labels, 0 decisions" in said[0]
    assert "edited" in said[3] and "looking at viewer" in said[3]
    assert "drop" in said[3] and "(left out)" in said[3]
    assert "{'tags': ['wood_elf', 'a tag of mine']}" in said[4]
    old, now = said[5].splitlines()[:2]
    assert "looking at viewer" in old and "looking at viewer" not in now
    assert "1 decision is left" in said[5]
    assert contents(labels) == before
