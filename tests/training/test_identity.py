"""What must not change when a run goes on."""

import pytest

from elf.errors import ElfError
from elf.training.averaging import EMAConfig
from elf.training.identity import flatten, refuse_other_run, warn_of_precision


def test_nested_options_have_dotted_keys_and_plain_values() -> None:
    found = flatten({"a": {"b": (1, 2), "c": {"d": None}}, "ema": EMAConfig()}, "model.")
    assert found == {
        "model.a.b": [1, 2],
        "model.a.c.d": None,
        "model.ema.decay": 0.999,
        "model.ema.warmup": True,
        "model.ema.every_n_steps": 1,
    }


def test_the_first_difference_is_told_with_both_values() -> None:
    refuse_other_run({"a": 1}, {})
    refuse_other_run({"a": 1}, {"a": 1, "b": 2})
    with pytest.raises(ElfError, match="b is 3 here and 2 in the checkpoint; a run goes on as it"):
        refuse_other_run({"a": 1, "b": 3}, {"a": 1, "b": 2})


def test_another_precision_is_told_but_not_refused() -> None:
    warn_of_precision("32-true", "32-true")
    warn_of_precision("32-true", None)  # a checkpoint from before it was noted
    with pytest.warns(UserWarning, match="trainer.precision is bf16-mixed here and 32-true in the"):
        warn_of_precision("bf16-mixed", "32-true")


def test_a_checkpoint_from_before_an_option_goes_on_with_its_old_value() -> None:
    refuse_other_run({"model.caption_tokens": 75}, {"model.clip_skip": None})
    with pytest.raises(
        ElfError, match=r"model\.caption_tokens is 150 here and 75 in the checkpoint"
    ):
        refuse_other_run({"model.caption_tokens": 150}, {"model.clip_skip": None})


def test_a_run_of_another_length_is_told_how_it_can_go_on() -> None:
    key = "model.schedule.total_steps"
    with pytest.raises(
        ElfError,
        match=r"is 8 here and 6 in the checkpoint; a run goes on as it began: set "
        r"trainer\.max_steps back, or keep a schedule that ends above 0 by "
        r"--model\.schedule\.total_steps 6, or start a new run without --ckpt_path",
    ):
        refuse_other_run({key: 8}, {key: 6})
    with pytest.raises(ElfError, match=r"None in the checkpoint; .* began: change it back, or"):
        refuse_other_run({key: 8}, {key: None})
