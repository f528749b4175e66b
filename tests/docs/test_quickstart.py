"""docs/quickstart.md shows what the command prints, with the figures of the log."""

import re
from pathlib import Path

from elf import quickstart

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/quickstart.md").read_text("utf-8")
(OUTPUT,) = re.findall(r"```text\n(1\. .*?)```", PAGE, re.DOTALL)
STEPS, TABLE = OUTPUT.split("\n\n")


def test_its_steps_are_those_of_the_command() -> None:
    source = Path(quickstart.__file__).read_text("utf-8")
    for field, value in (
        ("{COUNT}", quickstart.COUNT),
        ("{max_steps}", quickstart.STEPS),
        ("{KINDS[kind]}", "LoRA"),
    ):
        source = source.replace(field, str(value))
    said = re.findall(r'steps\.step\("\w+", f?"(.*?)"\)', source)
    assert [f"{n}. {does}" for n, does in enumerate(said, 1)] == STEPS.splitlines()


def test_its_table_is_what_the_log_says() -> None:
    log = (ROOT / "benchmarks/RESULTS.md").read_text("utf-8").split("## Labelling")[0]

    def lora(row: str) -> list[float]:
        (line,) = re.findall(rf"^\| {row}.*?\| ([^|]*) \|", log, re.MULTILINE)
        return [float(number) for number in re.findall(r"[\d.]+", line)]

    summary: dict[str, object] = {"export_picture_difference": 0.0}
    for key, row in (
        ("concept_rate_{}", "leaf crown with the trigger"),
        ("attributes_{}", "what else was asked for"),
        ("concept_rate_{}_without_trigger", "leaf crown without the trigger"),
        ("attributes_{}_without_trigger", "what was asked for, without it"),
    ):
        base, adapter = lora(row)
        summary |= {key.format("base"): base / 100, key.format("adapter"): adapter / 100}
    (training,), (whole,) = lora("training"), lora("in all")
    summary |= {
        "train_seconds": training,
        "seconds": {"all": whole},
        "paths": {"report": "models/quickstart/evaluation/report.html"},
    }
    printed = quickstart.table(summary).splitlines()
    assert [line for line in printed if "export and memory" not in line] == TABLE.splitlines()


def test_its_pictures_are_small() -> None:
    for name in re.findall(r"\]\((\S+\.png)\)", PAGE):
        assert (ROOT / "docs" / name).stat().st_size <= 300 * 1024, name
