"""docs/curation.md tells the truth about defaults, options and files."""

import re
from dataclasses import asdict
from pathlib import Path

from elf.curate import PROPOSALS, make_parser
from elf.curation import duplicates, facts, likeness
from elf.curation.policy import Policy
from elf.curation.proposals import BLURRED, LOSSLESS
from elf.curation.quality import FLAGS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "curation.md").read_text()
WORDS = " ".join(PAGE.split())


def test_the_table_of_flags_is_the_policy():
    policy = Policy()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (yes|no) \|$", PAGE, re.MULTILINE)
    assert [flag for flag, _, _ in rows] == list(FLAGS)
    assert [flag for flag, _, drops in rows if drops == "yes"] == list(policy.drop)
    limits = asdict(policy.thresholds) | {"small": policy.resolution}
    for flag, text, _ in rows:
        assert re.search(rf"(?<![\d.]){limits[flag]}(?![\d])", text), flag


def test_the_figures_in_words_are_the_defaults():
    policy = Policy()
    words = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}[duplicates.LOOKED_AT]
    for phrase in (
        f"At most {policy.distance} may differ",
        f"Where up to {likeness.LOOSE} differ, the {words} most similar",
        f"a cosine of {policy.similarity} ",
        f"less {BLURRED} × blur, plus {LOSSLESS} × fidelity",
        f"{facts.LOSSY_WEBP / 100} for lossy WebP, {facts.GIF / 100} for GIF",
    ):
        assert phrase in WORDS, phrase
    assert policy.crops and not policy.flips


def test_options_and_files_that_it_names_are_real():
    known = {string for action in make_parser()._actions for string in action.option_strings}
    named = set(re.findall(r"(--[a-z_.]+)", PAGE))
    assert named and named <= known
    for path in re.findall(r"\]\(([\w./-]+)\)", PAGE):
        assert (ROOT / "docs" / path).exists(), path
    assert (ROOT / "docs" / "curate.png").stat().st_size <= 300 * 1024
    assert PROPOSALS in PAGE
    defaults = make_parser().get_defaults()
    for option in ("root", "cache", "output"):
        assert defaults[option] in PAGE
