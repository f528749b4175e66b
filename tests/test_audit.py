"""What CI says of known vulnerabilities: found, none, or that nobody could be asked."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parent.parent / ".ci" / "audit.py"


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("audit", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "audit", module)  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


def package(name: str, *vulnerabilities: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": list(vulnerabilities)}


BAD = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"], "description": "a"}
SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited"}


def test_a_known_vulnerability_fails(audit: Any) -> None:
    code, said = audit.judge({"osv": "", "pypi": report(package("a"), package("b", BAD))})
    assert (code, said) == (
        1, "known vulnerabilities, by pypi:\nb 1.0: PYSEC-1, mended in 1.1"
    )  # fmt: skip
    unfixed = report(package("b", BAD | {"fix_versions": []}))
    assert audit.judge({"osv": unfixed})[1].endswith("b 1.0: PYSEC-1, mended in no version yet")


def test_one_that_does_not_touch_elf_is_named_with_its_reason(
    audit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(reason.strip() for reason in audit.ACCEPTED.values())
    monkeypatch.setattr(audit, "ACCEPTED", {"CVE-1": "only of a server that Elf does not start"})
    assert audit.judge({"osv": report(package("b", BAD))})[0] == 0


def test_what_a_service_does_not_know_is_told(audit: Any) -> None:
    code, said = audit.judge({"osv": report(package("a"), SKIPPED)})
    assert (code, said) == (0, "no known vulnerability in 1 packages, by osv; osv does not know c")


@pytest.mark.parametrize("answer", ["", "ConnectionError", "[]", "{}", report(), report(SKIPPED)])
def test_no_answer_is_no_failure_and_is_said(audit: Any, answer: str) -> None:
    """A mirror of the package index that knows no advisories is no answer either."""
    code, said = audit.judge({"osv": answer, "pypi": answer})
    assert (code, said) == (
        0, "skipped: neither osv nor pypi answers here, so nothing was audited"
    )  # fmt: skip


def test_a_service_that_hangs_is_given_up(audit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PATIENCE", 0.2)
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert audit.ask("osv", waits) == ""
    fails = [sys.executable, "-c", "raise SystemExit('no network')"]
    monkeypatch.setattr(audit, "PATIENCE", 60)
    assert audit.ask("osv", fails) == ""


def test_ci_audits_what_it_installed() -> None:
    assert "python .ci/audit.py" in (PATH.parent / "run").read_text().splitlines()
