"""A table by steps: whole at any instant, merged, cut back."""

from pathlib import Path

from elf.watching.steptable import StepTable


def text(table: StepTable) -> str:
    return table.path.read_text()


def test_a_row_in_two_parts_is_one_row_and_rewrites_nothing_before_it(tmp_path: Path) -> None:
    table = StepTable(tmp_path / "t.csv")
    table.add({"step": "0", "a": "1", "b": "2"})
    table.add({"step": "1", "a": "3"})
    inode = table.path.stat().st_ino
    table.add({"step": "1", "b": "4"})
    table.add({"step": "2", "a": "5"})
    assert text(table) == "step,a,b\n0,1,2\n1,3,4\n2,5,\n"
    assert table.path.stat().st_ino == inode, "written in place, not anew"
    table.add({"step": "2", "a": ""})  # shorter than before: anew
    assert text(table) == "step,a,b\n0,1,2\n1,3,4\n2,,\n"


def test_figures_that_come_late_go_to_their_step(tmp_path: Path) -> None:
    table = StepTable(tmp_path / "t.csv")
    for step in ("0", "1", "3"):
        table.add({"step": step, "a": step})
    table.add({"step": "0", "b": "x"})
    table.add({"step": "2", "b": "y"})
    table.add({"step": "3", "b": "z"})
    table.add({"step": "4", "a": "4"})
    assert text(table) == "step,a,b\n0,0,x\n1,1,\n2,,y\n3,3,z\n4,4,\n"


def test_what_another_process_wrote_is_kept(tmp_path: Path) -> None:
    StepTable(tmp_path / "t.csv").add({"step": "0", "a": "é, ü"})
    again = StepTable(tmp_path / "t.csv")
    again.add({"step": "0", "b": "x"})
    again.add({"step": "1", "a": "y"})
    assert StepTable(tmp_path / "t.csv").rows == [
        {"step": "0", "a": "é, ü", "b": "x"},
        {"step": "1", "a": "y", "b": ""},
    ]
    again.rewind(1)
    assert text(again) == 'step,a,b\n0,"é, ü",x\n'
