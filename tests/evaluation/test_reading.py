"""metrics.json becomes types, or one line that says what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elf.errors import ElfError
from elf.evaluation.reading import read_metrics, what_is_replaced
from elf.evaluation.schema import Difference

Changed = Callable[[Callable[[dict[str, Any]], object]], Path]


def refused(folder: Path) -> str:
    with pytest.raises(ElfError) as caught:
        read_metrics(folder)
    text = str(caught.value)
    assert "\n" not in text and str(folder / "metrics.json") in text
    return text


def test_the_sample_is_read_whole(sample: Path) -> None:
    found, metrics = json.loads((sample / "metrics.json").read_text("utf-8")), read_metrics(sample)
    for name in ("variants", "rows", "pictures", "nearest", "loss"):
        assert len(getattr(metrics, name)) == len(found[name])
    row = metrics.row("subject_similarity", "wood_elf x 0.7")
    assert row is not None and row.difference == Difference(0.16, 0.13, 0.19)
    assert row.indicative and row.pictures == 16 and row.needed == 40
    assert metrics.settings == found["settings"]
    assert metrics.base.name == "base" and metrics.adapters == ("wood_elf", "wood_elf_long")


def test_a_report_of_other_adapters_is_not_replaced_in_silence(
    sample: Path, tmp_path: Path
) -> None:
    assert what_is_replaced(sample, ["wood_elf_long", "wood_elf"]) == ""
    assert what_is_replaced(tmp_path, ["a"]) == ""
    assert what_is_replaced(sample, ["wood_elf"]) == (
        f"{sample} holds a report of wood_elf, wood_elf_long, whose place this one takes; "
        "--trainer.default_root_dir keeps both"
    )


def test_the_recommended_strength_is_shown_or_else_the_highest(changed: Changed) -> None:
    def one_that_was_not_drawn(found: dict[str, Any]) -> None:
        found["verdict"]["adapters"][0]["strength"] = 0.55

    folder = changed(lambda found: None)
    assert [each.strength for each in read_metrics(folder).shown_variants] == [0.7, 1.3]
    changed(one_that_was_not_drawn)
    assert [each.strength for each in read_metrics(folder).shown_variants] == [1.3, 1.3]


def test_strengths_are_in_order_whatever_the_file_says(changed: Changed) -> None:
    metrics = read_metrics(changed(lambda found: found["variants"].reverse()))
    assert [each.strength for each in metrics.strengths("wood_elf")] == [0.4, 0.7, 1.0, 1.3]
    assert metrics.base.name == "base"


def test_what_a_later_elf_adds_is_passed_over(changed: Changed) -> None:
    folder = changed(lambda found: found["plan"].update(steps=20))
    assert read_metrics(folder).plan.seeds == (0, 1)


def test_python_s_nan_is_no_value(changed: Changed) -> None:
    def spoil(found: dict[str, Any]) -> None:
        found["rows"][0]["adapter"] = float("nan")

    assert read_metrics(changed(spoil)).rows[0].adapter is None


def test_half_a_character_becomes_a_mark(changed: Changed) -> None:
    def spoil(found: dict[str, Any]) -> None:
        found["plan"]["prompts"][0] = "wood_elf \ud800"

    assert read_metrics(changed(spoil)).plan.prompts[0] == "wood_elf ?"


def test_a_missing_file_says_what_to_give(tmp_path: Path) -> None:
    assert "there is no such file; give the folder that `elf test` wrote" in refused(tmp_path)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").mkdir()
    assert "cannot be read" in refused(tmp_path) and "run `elf test` again" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"schema": 1', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.json").write_bytes(content)
    text = refused(tmp_path)
    assert "damaged (" in text and text.endswith("run `elf test` again, which writes it anew")


@pytest.mark.parametrize("schema", [None, 2, "1", True])
def test_another_schema(changed: Changed, schema: object) -> None:
    text = refused(changed(lambda found: found.update(schema=schema)))
    assert f"schema is {schema!r}, this Elf reads 1; run `elf test` again" in text


def test_a_list_has_no_schema(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[]", encoding="utf-8")
    assert "schema is None, this Elf reads 1" in refused(tmp_path)


WRONG: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("plan is missing", lambda found: found.pop("plan")),
    ("rows[3].pictures is missing", lambda found: found["rows"][3].pop("pictures")),
    ('rows is "none", not a list', lambda found: found.update(rows="none")),
    ("variants[1] is 5, not an object", lambda found: found["variants"].__setitem__(1, 5)),
    ("settings is [], not an object", lambda found: found.update(settings=[])),
    ("plan.seeds[0] is 0.5, not a whole number", lambda found: found["plan"].update(seeds=[0.5])),
    ("nearest[0].copy is 1, not true or false", lambda found: found["nearest"][0].update(copy=1)),
    ("rows[0].note is null, not a text", lambda found: found["rows"][0].update(note=None)),
    ("loss[0].loss is true, not a number", lambda found: found["loss"][0].update(loss=True)),
    ("loss[0].loss is infinite", lambda found: found["loss"][0].update(loss=10**400)),
    (
        f'loss[0].loss is "{"x" * 56}…, not a number',
        lambda found: found["loss"][0].update(loss="x" * 100),
    ),
    ("variants has no base", lambda found: found["variants"].pop(0)),
    (
        "variants has 'base' twice",
        lambda found: found["variants"].append({"name": "base", "adapter": "a", "strength": 1}),
    ),
    (
        "plan has 8 prompts, but 1 in triggered",
        lambda found: found["plan"].update(triggered=[True]),
    ),
    (
        "rows[0] is of 'gone', which is no variant",
        lambda found: found["rows"][0].update(variant="gone"),
    ),
    ("pictures[2].prompt is 8, of 8 prompts", lambda found: found["pictures"][2].update(prompt=8)),
    ("nearest[0].prompt is -1, of 8", lambda found: found["nearest"][0].update(prompt=-1)),
    (
        "pictures[0] names '../secret.png', which is outside of the folder",
        lambda found: found["pictures"][0].update(file="../secret.png"),
    ),
    (
        "nearest[0] names '/secret.png', which is outside of the folder",
        lambda found: found["nearest"][0].update(training="/secret.png"),
    ),
    (
        r"nearest[0] names 'C:\\secret.png', which is outside of the folder",
        lambda found: found["nearest"][0].update(training=r"C:\secret.png"),
    ),
]


@pytest.mark.parametrize(("said", "spoil"), WRONG, ids=[said for said, _ in WRONG])
def test_what_does_not_fit_is_named(
    changed: Changed, said: str, spoil: Callable[[dict[str, Any]], object]
) -> None:
    text = refused(changed(spoil))
    assert said in text and text.endswith("; run `elf test` again, which writes it anew")
