"""Audits the environment's packages for known vulnerabilities, where somebody answers.

    python .ci/audit.py

Asks OSV, then PyPI, through pip-audit. A known vulnerability fails (exit code 1). Where neither
answers, one line says that the audit was skipped, and that is no failure: CI must pass without a
network. A mirror of PyPI that knows no advisories is no answer, though pip-audit takes it for one.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SERVICES = ("osv", "pypi")
PATIENCE = 120
"""Seconds that a service has for all packages."""
ACCEPTED: dict[str, str] = {}
"""Advisories that do not touch Elf, by their id, each with the reason."""


@dataclass(frozen=True)
class Answer:
    """What a service said.

    Attributes:
        audited: Packages that it knows.
        unknown: Packages that it does not.
        found: Vulnerabilities, a line each.
    """

    audited: int = 0
    unknown: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


def read(report: str) -> Answer | None:
    """Return what pip-audit's report says; None if nobody answered.

    Args:
        report: Its JSON; something else, or nothing, where a service was not reached.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return None
    known = [package for package in packages if "vulns" in package]
    if not known:
        return None
    found = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"mended in {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for package in known
        for vulnerability in package["vulns"]
        if ACCEPTED.keys().isdisjoint([vulnerability["id"], *vulnerability.get("aliases", [])])
    ]
    return Answer(len(known), [p["name"] for p in packages if "vulns" not in p], found)


def ask(service: str, command: Sequence[str] = (sys.executable, "-m", "pip_audit")) -> str:
    """Return pip-audit's report by a service; empty if it takes too long."""
    options = ["--vulnerability-service", service, "--format", "json", "--timeout", "5",
               "--progress-spinner", "off", "--skip-editable", "--local"]  # fmt: skip
    try:
        done = subprocess.run(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL, timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.decode(errors="replace")


def judge(reports: dict[str, str]) -> tuple[int, str]:
    """Return the exit code and what to say of services' reports, of which the first answer counts.

    Args:
        reports: By service.
    """
    for service, report in reports.items():
        answer = read(report)
        if answer is None:
            continue
        if answer.found:
            return 1, "\n".join([f"known vulnerabilities, by {service}:", *answer.found])
        unknown = f"; {service} does not know {', '.join(answer.unknown)}" * bool(answer.unknown)
        return 0, f"no known vulnerability in {answer.audited} packages, by {service}{unknown}"
    return 0, f"skipped: neither {' nor '.join(reports)} answers here, so nothing was audited"


def main() -> int:
    """Audit, and return the exit code."""
    reports: dict[str, str] = {}
    for service in SERVICES:
        reports[service] = ask(service)
        if read(reports[service]):
            break
    code, said = judge(reports)
    print(f"audit: {said}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
