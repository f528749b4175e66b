import numpy as np
import pytest

from elf.language.documents import Document
from elf.language.truncation import fit, piece_id


def document(shown, ends=(), splits=False):
    """Return a document by its mask: ``x`` is trained, ``.`` is not; tokens are their places."""
    trained = np.array([letter == "x" for letter in shown])
    return Document(np.arange(len(shown), dtype=np.uint32), trained, tuple(ends), splits)


def fitted(shown, length, ends=(), splits=False, truncation="whole"):
    result = fit(document(shown, ends, splits), length, truncation)
    for each in result.documents:
        assert len(each) <= length and each.trained.any() and not each.trained[0]
    masks = ["".join(".x"[int(trained)] for trained in each.trained) for each in result.documents]
    starts = [int(each.tokens[0]) for each in result.documents]
    for start, each in zip(starts, result.documents, strict=True):
        assert each.tokens.tolist() == list(range(start, start + len(each)))
    return masks, starts, result.reason, result.shortened


CHAT = "..xx...xxx..", (4, 10)


@pytest.mark.parametrize(
    ("length", "masks", "reason", "shortened"),
    [
        (99, ["..xx...xxx"], "", False),  # nothing is learnt from what is behind
        (10, ["..xx...xxx"], "", False),
        (9, ["..xx"], "", True),
        (4, ["..xx"], "", True),
        (3, [], "no answer ends within 3 tokens", False),
    ],
)
def test_a_chat_ends_with_the_last_answer_that_fits(length, masks, reason, shortened):
    assert fitted(CHAT[0], length, CHAT[1]) == (masks, [0] * len(masks), reason, shortened)


def test_a_completion_that_does_not_fit_is_left_out():
    assert fitted("..xxx", 5, [5])[0] == ["..xxx"]
    assert fitted("..xxx", 4, [5]) == ([], [], "no answer ends within 4 tokens", False)


def test_a_text_goes_on_in_pieces():
    masks, starts, reason, shortened = fitted("xxxxxxx", 3, splits=True)
    # the last has one token, which nothing predicts
    assert (masks, starts) == ([".xx", ".xx"], [0, 3])
    assert (reason, shortened) == ("nothing is left to train on", False)
    assert fitted("xxxxxxxx", 3, splits=True)[:3] == ([".xx", ".xx", ".x"], [0, 3, 6], "")
    assert fitted("xxx", 3, splits=True)[:3] == ([".xx"], [0], "")


def test_cutting_cuts_anything():
    for ends, splits in (((5,), False), ((), True)):
        assert fitted("..xxx", 4, ends, splits, "cut") == (["..xx"], [0], "", True)
    assert fitted("....x", 4, (5,), truncation="cut") == (
        [],
        [],
        "nothing is left to train on",
        False,
    )
    assert fitted("..xx.", 4, (4,), truncation="cut") == (["..xx"], [0], "", False)


def test_everything_of_a_chat_ends_with_an_answer_too():
    assert fitted("xxxxxxxx", 6, (4, 8)) == ([".xxx"], [0], "", True)


@pytest.mark.parametrize("shown", ["", "...", "x", "x.."])
def test_nothing_to_train_on_is_left_out(shown):
    assert fitted(shown, 9) == ([], [], "nothing is left to train on", False)


def test_pieces_have_ids_of_their_own():
    ids = {piece_id(row, number) for row in ("0" * 16, "1" * 16) for number in range(100)}
    assert len(ids) == 200 and all(len(each) == 16 and int(each, 16) for each in ids)
