"""Which picture of a group is the best, what is proposed about the others, and what people said."""

import dataclasses

import numpy as np
import pytest
from PIL import Image, ImageFilter

from elf.curation.facts import Facts, look_at
from elf.curation.policy import Policy
from elf.curation.proposals import propose, rank, score
from elf.curation.quality import Figures
from elf.curation.scan import Picture
from elf.curation.verdicts import Verdict
from elf.errors import ElfError
from elf.images import picture_id

FACTS = Facts(800, 600, 90_000, "JPEG", 90, Figures(0.2, 7.0, 0.9, 0.1, 0.5), 1.0, b"", bytes(2304))


@pytest.fixture(scope="module")
def pictures(scene, saved):
    """Two scenes: the first also smaller, framed, blurred, mirrored."""
    one, other = scene(0, 720, 560), scene(1, 720, 560)
    canvas = Image.new("RGB", (760, 600), "white")
    canvas.paste(one, (20, 20))
    files = {
        "other.png": saved(other),
        "best.png": saved(one),
        "small.jpg": saved(one.resize((360, 280)), "JPEG", quality=80),
        "framed.jpg": saved(canvas, "JPEG", quality=70),
        "blurred.png": saved(one.filter(ImageFilter.GaussianBlur(6)).resize((800, 622))),
        "mirrored.jpg": saved(one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG", quality=85),
    }
    return [
        Picture(picture_id(data) + "0" * 48, (name,), look_at(data)[0])
        for name, data in files.items()
    ]


def by_name(entries):
    return {entry.picture.paths[0]: entry for entry in entries}


def key(pictures, name):
    return next(picture.id for picture in pictures if picture.paths[0] == name)


def leaders(entries):
    names = {entry.picture.id: entry.picture.paths[0] for entry in entries}
    return {entry.picture.paths[0]: names[entry.leader] for entry in entries}


def test_the_best_picture_of_each_group_stays(pictures):
    entries = propose(pictures, {}, Policy())
    assert [entry.picture for entry in entries] == pictures
    assert leaders(entries) == {
        "other.png": "other.png", "best.png": "best.png", "small.jpg": "best.png",
        "framed.jpg": "best.png", "blurred.png": "best.png", "mirrored.jpg": "mirrored.jpg",
    }  # fmt: skip
    found = by_name(entries)
    assert found["best.png"].reason is None and found["best.png"].alike == ""
    assert found["mirrored.jpg"].reason is None
    assert found["small.jpg"].reason.startswith("like best.png (")
    assert found["small.jpg"].reason.endswith("of 255 bits differ)")
    assert found["framed.jpg"].reason == "like best.png (but for a crop, a border or a mark)"
    assert "; blurry: 1.00" in found["blurred.png"].reason
    assert [entry.keep for entry in entries] == [True, True, False, False, False, True]


def test_options_say_what_is_alike(pictures):
    mirrored = by_name(propose(pictures, {}, Policy(flips=True)))["mirrored.jpg"]
    assert mirrored.reason.startswith("like best.png (mirrored, ")
    without = by_name(propose(pictures, {}, Policy(crops=False)))
    assert without["framed.jpg"].reason is None and without["small.jpg"].reason is not None
    nothing_drops = by_name(propose(pictures, {}, Policy(drop=())))
    assert "blurry" not in (nothing_drops["blurred.png"].reason or "")
    assert "blurry" in nothing_drops["blurred.png"].flags


def test_the_order_of_the_pictures_does_not_matter(pictures):
    first = by_name(propose(pictures, {}, Policy()))
    for _ in range(3):
        pictures = [*pictures[2:], *pictures[:2]]
        assert by_name(propose(pictures, {}, Policy())) == first


def test_embeddings_join_what_the_eye_of_a_tagger_finds_alike(pictures):
    vectors = np.zeros((len(pictures), 4), np.float32)
    vectors[0] = vectors[5] = [0.6, 0.8, 0, 0]  # other and mirrored
    vectors[1] = [0, 0, 1, 0]
    found = by_name(propose(pictures, {}, Policy(), vectors))
    assert found["mirrored.jpg"].reason or found["other.png"].reason
    alike = found["mirrored.jpg"].alike + found["other.png"].alike
    assert alike == "embedding 1.000"
    apart = by_name(propose(pictures, {}, Policy(similarity=None), vectors))
    assert apart["mirrored.jpg"].reason is None and apart["other.png"].reason is None


def test_what_a_person_keeps_stays_and_costs_no_better_picture(pictures):
    verdicts = {key(pictures, "small.jpg"): Verdict(True, by_person=True)}
    entries = propose(pictures, verdicts, Policy())
    assert leaders(entries)["small.jpg"] == "small.jpg"
    assert leaders(entries)["framed.jpg"] == leaders(entries)["best.png"] == "best.png"
    found = by_name(entries)
    assert found["small.jpg"].keep and found["small.jpg"].reason is None
    assert found["best.png"].keep and not found["framed.jpg"].keep


def test_what_is_like_what_a_person_keeps_goes(pictures):
    rest = [picture for picture in pictures if picture.paths[0] in ("small.jpg", "blurred.png")]
    verdicts = {key(pictures, "small.jpg"): Verdict(True, by_person=True)}
    found = by_name(propose(rest, verdicts, Policy(drop=("small",), resolution=1000)))
    assert found["small.jpg"].keep and "small" in found["small.jpg"].reason
    assert not found["small.jpg"].proposed_drop
    assert found["blurred.png"].reason.startswith("like small.jpg")


def test_nothing_is_dropped_for_what_a_person_dropped(pictures):
    dropped = key(pictures, "best.png")
    entries = propose(pictures, {dropped: Verdict(False, by_person=True)}, Policy())
    found = by_name(entries)
    assert not found["best.png"].keep and not found["best.png"].proposed_drop
    group = {name for name, leader in leaders(entries).items() if leader == "framed.jpg"}
    assert {"small.jpg", "best.png", "framed.jpg"} <= group
    assert found["framed.jpg"].reason is None


def test_a_flag_that_drops_keeps_a_picture_from_leading(pictures):
    """The blurred one is the largest; the person kept none."""
    rest = [picture for picture in pictures if picture.paths[0] in ("blurred.png", "small.jpg")]
    assert leaders(propose(rest, {}, Policy()))["blurred.png"] == "small.jpg"
    alone = [picture for picture in pictures if picture.paths[0] == "blurred.png"]
    (entry,) = propose(alone, {}, Policy())
    assert entry.reason.startswith("blurry: ") and entry.leader == entry.picture.id


def test_what_was_accepted_is_looked_at_anew(pictures):
    verdicts = {key(pictures, "best.png"): Verdict(False, by_person=False)}
    entry = by_name(propose(pictures, verdicts, Policy()))["best.png"]
    assert entry.reason is None and entry.keep and entry.verdict == Verdict(False, False)


@pytest.mark.parametrize("count", [0, 1])
def test_few_pictures(pictures, count):
    assert len(propose(pictures[:count], {}, Policy())) == count


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"width": 1600}, {}),
        ({"figures": Figures(0.2, 7, 1, 0, 1)}, {"figures": Figures(0.6, 7, 1, 0, 1)}),
        ({"fidelity": 100}, {"fidelity": 70}),
        ({}, {"width": 840, "shown": 0.8}),
        ({"width": 840}, {"fidelity": 95}),
        ({"size": 200_000}, {}),
    ],
    ids=["pixels", "sharp", "lossless", "no border", "pixels before a little loss", "bytes"],
)
def test_what_makes_a_picture_better(better, worse):
    ranks = [
        rank(Picture("0" * 64, ("a",), dataclasses.replace(FACTS, **change)), False, None)
        for change in (better, worse)
    ]
    assert ranks[0] < ranks[1]


def test_decisions_and_flags_come_before_scores():
    poor = Picture("0" * 64, ("a",), dataclasses.replace(FACTS, width=100))
    rich = Picture("0" * 64, ("a",), FACTS)
    assert score(rich.facts) > score(poor.facts)
    assert rank(poor, False, None) < rank(rich, True, None) < rank(rich, False, False)
    assert rank(rich, False, None) < rank(poor, True, True) < rank(rich, True, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": -1}, "distance: -1 is not between 0 and 127 bits"),
        ({"distance": 200}, "distance: 200 is not between 0 and 127 bits"),
        ({"similarity": 1.5}, r"similarity: 1.5 is not between 0 and 1, or null"),
        ({"resolution": 0}, "resolution: 0 is below 1 px"),
        ({"drop": ("ugly",)}, r"drop: no flag 'ugly'; there are blurry, low_information, dark, "),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(ElfError, match=message):
        Policy(**options)


def test_reasons_are_words():
    figures = dataclasses.replace(FACTS.figures, entropy=0.5)
    even = Picture("0" * 64, ("even.png",), dataclasses.replace(FACTS, figures=figures))
    assert propose([even], {}, Policy())[0].reason == "low information: 0.5 bits"
