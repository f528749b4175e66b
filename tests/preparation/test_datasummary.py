"""What `elf prepare` says at its end."""

from elf.preparation.buckets import Placement
from elf.preparation.captionsummary import CaptionSummary
from elf.preparation.datasummary import summarise
from elf.preparation.encoding import Picture
from elf.preparation.selecting import Selection
from elf.preparation.sets import PictureSet
from elf.preparation.sources import Dropped, Location, Source

SETS = [
    PictureSet("data/elves", repeats=3, flip=True),
    PictureSet(tars=["a/*.tar"], regularisation=True, weight=0.5),
]


def picture(number, each, bucket, loss=0.0, mask=None):
    source = Source(f"{number:016x}", f"{number}.png", "x", Location(None), each)
    return Picture(source, bucket, Placement(bucket, bucket, (0, 0), loss), mask)


def selection():
    pictures = [picture(n, 0, (64, 64), 0.1, "m" if n else None) for n in range(4)]
    pictures += [picture(n, 0, (80, 48), 0.3) for n in range(4, 6)]
    pictures += [picture(n, 1, (64, 64)) for n in range(10, 14)]
    return Selection(SETS, pictures, {f"{5:016x}"}, {""})


DROPPED = [Dropped("bad.png", "damaged (x)", 0), Dropped("a.tar/1", "no caption beside it", 1),
           Dropped("a.tar/2", "no caption beside it", 1)]  # fmt: skip
MADE = {"train": 9, "heldout": 1, "latents": 10, "flipped": 5, "masks": 3, "captions": 2}
TEXTS = CaptionSummary(1)

EXPECTED = """\
pictures   9 to train on, 1 held out
  set 0    data/elves, repeats 3, flip True
           5 pictures, 15 samples an epoch, 1 held out, 3 masks, 1 dropped, crop loss 16.7%
  set 1    ['a/*.tar'], regularisation True, weight 0.5
           4 pictures, 15 samples an epoch, 2 dropped, crop loss 0.0%
samples    30 an epoch in batches of 4, 2 more to fill rows (data.remainder)
  64×64: 8       ██████████████████████████████, 27 samples +1
  80×48: 2       ███, 3 samples +1
crop loss  10.0% of the area on average
captions   cached: 1 of each picture, 1 texts in all, 0.0 MB
made now   10 pictures, 15 latents, 2 caption states, 3 masks
dropped    3
  2 × no caption beside it (set 1)
  1 × damaged (x) (set 0)
  bad.png: damaged (x)
  a.tar/1: no caption beside it
  a.tar/2: no caption beside it"""


def test_sets_histogram_fills_and_what_was_dropped_are_said():
    assert str(summarise(selection(), DROPPED, MADE, 4, TEXTS)) == EXPECTED


def test_figures_can_be_read_without_the_text():
    summary = summarise(selection(), DROPPED, MADE, 4, TEXTS)
    assert summary.samples == {(64, 64): 27, (80, 48): 3}
    assert (summary.fills((64, 64)), summary.fills((80, 48))) == (1, 1)
    assert [each.samples for each in summary.sets] == [15, 15]


def test_of_very_many_buckets_the_largest_are_shown():
    pictures = [picture(n, 0, (8 * (n // 2), 64)) for n in range(2, 62)]
    pictures.append(picture(70, 0, (8, 64)))
    lines = str(
        summarise(Selection(SETS[:1], pictures, set(), {""}), [], MADE, 1, TEXTS)
    ).splitlines()
    assert lines[2].startswith("  8×64: 3 ")
    assert "  6 more buckets: 12" in lines and len([line for line in lines if "×64" in line]) == 24


def test_one_set_needs_no_name():
    one = Selection([PictureSet("a")], [picture(0, 0, (64, 64))], set(), {""})
    text = str(summarise(one, [], MADE, 1, TEXTS))
    assert (
        "set 0" not in text and "samples    1 an epoch in batches of 1, 0 more to fill rows" in text
    )


def test_of_many_dropped_pictures_some_are_named_and_the_rest_is_counted():
    dropped = [Dropped(f"{n}.png", f"damaged ({n})", 0) for n in range(12)]
    text = str(summarise(selection(), dropped, MADE, 4, TEXTS))
    assert text.endswith("  9.png: damaged (9)\n  ... and 2 more")
