"""What libraries say of themselves is left out; what matters is not."""

import logging
import warnings

import pytest
from lightning.pytorch import seed_everything
from lightning.pytorch.plugins.environments import SLURMEnvironment

from elf.quiet import silence_harmless_warnings


def test_libraries_say_nothing_of_themselves_before_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    silence_harmless_warnings()
    with caplog.at_level(logging.INFO):
        seed_everything(0, workers=True)
        logging.getLogger("lightning.pytorch.utilities.rank_zero").info("Tip: try another")
        logging.getLogger("lightning.pytorch.utilities.rank_zero").info("GPU available: True")
    assert caplog.messages == ["GPU available: True"]


def test_one_process_on_a_machine_of_slurm_is_no_reason_to_warn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    said = []
    for quiet in (False, True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if quiet:
                silence_harmless_warnings()
            assert not SLURMEnvironment.detect()
        said.append([str(each.message) for each in caught])
    assert said[0][0].startswith("The `srun` command is available") and not said[1]


def test_a_warning_that_is_not_known_to_be_harmless_is_shown() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        silence_harmless_warnings()
        warnings.warn(
            "You have overridden `on_before_batch_transfer` in `LightningModule`", stacklevel=1
        )
        warnings.warn("You have overridden `training_step`", stacklevel=1)
    assert [str(each.message) for each in caught] == ["You have overridden `training_step`"]
