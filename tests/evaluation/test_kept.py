"""What was computed is not computed again, unless it is damaged or of something else."""

from pathlib import Path
from typing import Any

from elf.evaluation.kept import Kept
from elf.evaluation.plan import BASE, Variant

ELF = Variant("elf × 1", 0, 1.0)


class Making:
    """Counts how often something is made."""

    def __init__(self, *values: Any) -> None:
        self.values, self.times = list(values), 0

    def __call__(self) -> list[Any]:
        self.times += 1
        return self.values


def test_it_is_made_once(tmp_path: Path) -> None:
    making = Making([0.1, 3], "Grüße", None)
    for _ in range(2):
        kept = Kept(tmp_path / "own", tmp_path / "shared")
        assert kept.once(ELF, {"prompts": [[1, 2]]}, making) == [[0.1, 3], "Grüße", None]
    assert making.times == 1
    assert not (tmp_path / "shared").exists()


def test_of_another_key_it_is_made_anew(tmp_path: Path) -> None:
    kept, making = Kept(tmp_path, None), Making(1)
    for made_of in ({"strength": 1.0}, {"strength": 0.5}, {"strength": 1.0}):
        kept.once(ELF, made_of, making)
    assert making.times == 2


def test_the_bases_is_there_for_the_next_evaluation(tmp_path: Path) -> None:
    making = Making("a")
    Kept(tmp_path / "one", tmp_path / "shared").once(BASE, {"prompts": []}, making)
    Kept(tmp_path / "two", tmp_path / "shared").once(BASE, {"prompts": []}, making)
    Kept(tmp_path / "two", None).once(BASE, {"prompts": []}, making)
    assert making.times == 2


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    kept, making = Kept(tmp_path, None), Making("answer")
    kept.once(ELF, {"n": 1}, making)
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(path.read_bytes().replace(b"answer", b"onswer"))
    assert kept.once(ELF, {"n": 1}, making) == ["answer"]
    assert making.times == 2 and b"answer" in path.read_bytes()


def test_a_file_under_anothers_name_is_as_none(tmp_path: Path) -> None:
    kept = Kept(tmp_path, None)
    kept.once(ELF, {"n": 1}, Making("one"))
    (first,) = tmp_path.rglob("*.json")
    kept.once(ELF, {"n": 2}, Making("two"))
    (second,) = set(tmp_path.rglob("*.json")) - {first}
    second.write_bytes(first.read_bytes())
    assert kept.once(ELF, {"n": 2}, Making("again")) == ["again"]
