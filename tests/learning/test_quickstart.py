"""The quickstart teaches the base what it never saw, and nothing else: the promised figures.

The leaf crown stands in no training picture of the base's UNet. Rates are of 64 pictures each,
counted by the tagger, paired by prompt and seed; they are printed in the README.
"""

import json
from pathlib import Path

import pytest

from elf import cli
from elf.quickstart import STEPS


@pytest.mark.learning
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kind", "steps", "learnt"),
    [
        ("lora", STEPS // 2, 0.75),  # half of it: 89 % were seen; all of it is in the long column
        pytest.param("lora", STEPS, 0.9, marks=pytest.mark.slow),
        pytest.param("dora", STEPS // 2, 0.6, marks=pytest.mark.slow),
        pytest.param("dora", STEPS, 0.9, marks=pytest.mark.slow),
    ],
)
def test_the_adapter_learns_the_concept_and_keeps_the_rest(
    kind: str, steps: int, learnt: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    cli.main(["quickstart", "--output", str(output), "--adapter", kind, "--steps", str(steps)])
    summary = json.loads((output / "summary.json").read_text())

    assert summary["concept_rate_base"] <= 0.01
    assert summary["concept_rate_adapter"] >= learnt
    assert summary["attributes_base"] >= 0.9
    assert summary["attributes_adapter"] >= summary["attributes_base"] - 0.05
    assert summary["concept_rate_adapter_without_trigger"] <= 0.03
    lost = "attributes_{}_without_trigger"
    assert summary[lost.format("adapter")] >= summary[lost.format("base")] - 0.03
    assert summary["export_picture_difference"] <= 1e-4
    assert summary["train_seconds"] > 0

    for path in summary["paths"].values():
        assert Path(path).exists()
    printed = capsys.readouterr().out
    for step in ("elf predict", "elf prepare", "elf fit", "elf test", "elf export"):
        assert f"{step}:" in printed
    for path in summary["paths"].values():
        assert path in printed
    rate = f"{summary['concept_rate_adapter']:.0%}"
    assert f"leaf crown, with the trigger          0% → {rate}" in printed
    with pytest.raises(SystemExit):
        cli.main(["quickstart", "--output", str(output)])
    assert "holds a quickstart already; give another --output" in capsys.readouterr().err
