from collections import Counter

import pytest

from elf.callbacks.summary import HISTOGRAM, LabelSummary


def record(tags, status="ok"):
    return {"tags": tags, "attributes": {"florence_status": status}}


def made():
    summary = LabelSummary(skipped=4, duplicates={"b.png": "a.png"}, total=9)
    summary.count(record(["elf", "fern"]), cached=True)
    summary.count(record(["elf"], "failed: empty"), cached=False)
    summary.count(record(["elf"], "off"), cached=False)
    summary.quarantined = 1
    summary.seconds = {"decode": 3.0, "tagger": 0.5, "captioner": 0.4, "all": 4.0}
    return summary


def test_the_text_says_it_all():
    assert made().lines("labels") == [
        "3 pictures labelled (1 from the cache, 1 with tags alone), 4 skipped (labelled before), "
        "1 in quarantine; labels/manifest.jsonl holds 9",
        "1.0 pictures/s, limited by decoding (waiting for pictures 75 %, tagger at work 12 %, "
        "captioner at work 10 %)",
        "most frequent: elf 3, fern 1",
        "what is wrong with those in quarantine: labels/quarantine.jsonl",
        "b.png has the same bytes as a.png: labelled once",
    ]


def test_what_another_run_may_caption_is_said():
    summaries = [LabelSummary(), LabelSummary()]
    for summary, status in zip(
        summaries, ("unavailable: no such folder", "failed: memory"), strict=True
    ):
        summary.count(record(["elf"], status), cached=False)
        summary.count(record(["elf"], "failed: empty"), cached=False)
    assert LabelSummary.of(summaries).lines("labels")[1] == (
        "2 lack a caption that another run may give: mend what was warned of, then run the same "
        "command with --data.skip_existing false"
    )


def test_dropped_pictures_are_counted():
    line = LabelSummary(total=9, dropped=2).lines("labels")[0]
    assert line.endswith("labels/manifest.jsonl holds 9, 2 of them dropped by decisions")


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("decoding", {"decode": 3.0, "tagger": 3.5, "models": 0.5}),
        ("the tagger", {"tagger": 3.5, "captioner": 0.4, "models": 3.0}),
        ("the captioner", {"tagger": 0.5, "captioner": 3.0, "models": 2.5}),
        ("writing", {"decode": 1.0, "tagger": 3.5, "models": 0.5}),  # it worked ahead
    ],
)
def test_what_limits(words, seconds):
    assert LabelSummary(seconds=seconds | {"all": 4.0}).limit() == words


def test_several_processes_are_summed_up():
    whole = LabelSummary.of([made(), made()])
    assert (whole.labelled, whole.cached, whole.without_caption, whole.quarantined) == (6, 2, 2, 2)
    assert whole.skipped == 4  # each of them saw the whole folder
    assert whole.tags == Counter(elf=6, fern=2)
    assert whole.lines("labels")[1] == "by process: 3, 3 pictures"
    assert "by process" not in "".join(LabelSummary.of([made()]).lines("labels"))


def test_the_histogram_is_short():
    summary = LabelSummary()
    summary.count(record([f"t{number}" for number in range(99)]), cached=False)
    (line,) = (line for line in summary.lines("x") if line.startswith("most frequent"))
    assert line.count(",") == HISTOGRAM - 1


def test_nothing_to_do_is_one_line():
    assert len(LabelSummary(skipped=3).lines("labels")) == 1
