"""`elf quickstart --model language`: the small language model learns a form that it never read."""

import json
from pathlib import Path

import pytest

from elf import cli


@pytest.mark.learning
@pytest.mark.timeout(1200)
def test_elvish_is_learnt_and_little_is_forgotten(tmp_path: Path) -> None:
    cli.main(["quickstart", "--model=language", f"--output={tmp_path}"])
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = summary["evaluation"]
    assert found["exact_match"]["base"] <= 0.05
    assert found["exact_match"]["adapter"] >= 0.95
    assert found["forgetting_exact_match"]["base"] >= 0.95
    assert found["forgetting_exact_match"]["adapter"] >= 0.85
    assert found["perplexity_ratio"]["adapter"] < 0.05
    verdict = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())["verdict"]
    assert verdict["adapters"][0]["kind"] == "good", verdict
