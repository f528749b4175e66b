"""docs/faults.md says what the tests are and what they counted."""

import importlib.util
import json
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("faults_page", Path(__file__).with_name("page.py"))
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)


def test_every_fault_has_tests_in_every_run():
    tests = page.held()
    for number in page.PROMISES:
        assert [test for test in tests if number in test.numbers and "short" in test.columns], (
            f"no test of fault {number} runs by default"
        )
    assert {number for test in tests for number in test.numbers} == set(range(1, 17))
    assert len({test.name for test in tests}) == len(tests)


def test_the_page_is_what_is_written_of_the_tests():
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), (
        "docs/faults.md is not of these tests and figures: run python tests/faults/page.py"
    )


def test_figures_are_of_tests_that_exist():
    figures = json.loads(page.FIGURES.read_text(encoding="utf-8"))
    tests = {test.name: test for test in page.held()}
    for name, columns in figures.items():
        assert set(columns) <= set(tests[name].columns), name


def test_nothing_was_lost_doubled_torn_missed_or_run():
    bad = ("lost", "doubled", "torn", "missed", "mixtures", "differing_bytes", "other_errors",
           "damaged", "ulp", "executions")  # fmt: skip
    for name, columns in json.loads(page.FIGURES.read_text(encoding="utf-8")).items():
        for entry in columns.values():
            assert not any(entry["figures"].get(key) for key in bad), name


REPORT = """<testsuites><testsuite timestamp="2026-01-02T03:04:05+00:00">
<testcase classname="tests.test_a" name="test_x[1]"><properties><property name="fault" value="1"/>
<property name="column" value="long"/><property name="of" value="100"/>
<property name="kills" value="20"/><property name="most_megabytes" value="5"/></properties>
</testcase><testcase classname="tests.test_a" name="test_x[2]"><properties>
<property name="column" value="long"/><property name="of" value="100"/>
<property name="kills" value="30"/><property name="most_megabytes" value="4"/></properties>
</testcase><testcase classname="tests.test_a" name="test_other"/></testsuite></testsuites>"""


def test_a_report_is_added_up(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    again = tmp_path / "again.xml"  # another case, and one of the same once more
    again.write_text(REPORT.replace("test_x[1]", "test_x[3]").replace("2026-01-02", "2026-01-05"))
    (columns,) = page.counted([report, again]).values()
    assert columns["long"]["cases"] == 3 and columns["long"]["figures"]["kills"] == 70
    assert columns["long"]["date"] == "2026-01-05"
    (columns,) = page.counted([report]).values()
    entry = columns["long"]
    assert (entry["date"], entry["cases"]) == ("2026-01-02", 2)
    assert dict(entry["figures"]) == {"of": 200, "kills": 50, "most_megabytes": 5}
    entry["figures"] = {key: int(value) for key, value in entry["figures"].items()}
    assert page._said(entry, "long") == "**50 of 200** kills, at most 5 megabytes"
    report.write_text(REPORT.replace("</properties>", "</properties><failure/>", 1))
    with pytest.raises(SystemExit, match=r"tests/test_a\.py::test_x failed"):
        page.counted([report])
