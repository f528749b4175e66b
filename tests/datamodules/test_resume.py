"""Fault 9 in the loader: a run that is stopped at any step goes on as if it had not been."""

import pytest

from elf.errors import ElfError

pytestmark = [
    # lightning 2.6.6 with torch 2.14: a rename inside torch.utils._pytree
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes"),
]


def undisturbed(kit, make_data, folder, **options):
    """Train three epochs with a checkpoint after each optimizer step."""
    module = kit.TinyModule()
    trainer = kit.make_trainer(folder, kit.SaveEachStep(folder), **options)
    trainer.fit(module, datamodule=make_data(workers=0))
    return module, trainer.global_step


def resumed(kit, make_data, folder, step, workers, *callbacks, **options):
    module = kit.TinyModule()
    trainer = kit.make_trainer(folder, *callbacks, **options)
    data = make_data(workers=workers)
    trainer.fit(module, datamodule=data, ckpt_path=folder / f"step={step}.ckpt", weights_only=True)
    return module


def three_epochs(accumulation, by):
    # 8 batches an epoch; at its end Lightning steps with what was accumulated
    steps = 3 * -(-8 // accumulation)
    stop = {"max_steps": steps, "max_epochs": -1} if by == "steps" else {"max_epochs": 3}
    return {"accumulate_grad_batches": accumulation, **stop}


@pytest.mark.fault(9)
@pytest.mark.parametrize("by", ["steps", "epochs"])
@pytest.mark.parametrize(
    ("accumulation", "workers", "steps"),
    [(1, 0, (1, 7, 8, 9, 16, 23)), (3, 0, (1, 2, 3, 4, 6, 8)), (1, 2, (8, 11)), (4, 3, (2, 3))],
)
def test_a_stopped_run_resumes_exactly(
    kit, make_data, tmp_path, accumulation, workers, steps, by, figures
):
    options = three_epochs(accumulation, by)
    reference, _ = undisturbed(kit, make_data, tmp_path, **options)
    assert len(reference.seen) == 24
    for step in steps:
        module = resumed(kit, make_data, tmp_path, step, workers, **options)
        epochs, within = divmod(step, -(-8 // accumulation))
        assert len(reference.seen) - len(module.seen) == epochs * 8 + within * accumulation
        kit.assert_same_run(module, reference)
    figures(stops=len(steps), ulp=0)


@pytest.mark.fault(9)
@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("validation", [0.0, 1.0])
@pytest.mark.parametrize("by", ["steps", "epochs"])
@pytest.mark.parametrize("accumulation", [1, 3, 4])
def test_a_run_stopped_at_any_step_resumes_exactly(
    kit, make_data, tmp_path, accumulation, by, validation, workers, figures
):
    options = {**three_epochs(accumulation, by), "limit_val_batches": validation}
    reference, total = undisturbed(kit, make_data, tmp_path, **options)
    for step in range(1, total):
        kit.assert_same_run(resumed(kit, make_data, tmp_path, step, workers, **options), reference)
    figures(stops=total - 1, ulp=0)


@pytest.mark.fault(9)
def test_two_resumes_in_a_row_are_exact(kit, make_data, tmp_path, figures):
    options = three_epochs(1, "steps")
    reference, _ = undisturbed(kit, make_data, tmp_path, **options)
    for first, second in ((3, 5), (7, 8), (8, 16), (15, 17)):
        again = tmp_path / f"again-{first}"
        partial = {**options, "max_steps": second}
        resumed(kit, make_data, tmp_path, first, 0, kit.SaveEachStep(again), **partial)
        module = resumed(kit, make_data, again, second, 0, **options)
        assert len(module.seen) == 24 - second
        kit.assert_same_run(module, reference)
    figures(stops=8, ulp=0)


@pytest.mark.fault(9)
def test_an_epoch_cut_by_limit_train_batches_resumes_exactly(kit, make_data, tmp_path):
    options = {"max_epochs": 4, "limit_train_batches": 5}
    reference, total = undisturbed(kit, make_data, tmp_path, **options)
    assert total == 20 and len(set(reference.seen)) == 20  # goes on where the last one ended
    for step in (4, 5, 6, 8, 10):
        kit.assert_same_run(resumed(kit, make_data, tmp_path, step, 0, **options), reference)


@pytest.mark.fault(10)
def test_a_changed_batch_is_refused_inside_lightning(kit, make_data, tmp_path):
    undisturbed(kit, make_data, tmp_path, max_steps=2)
    trainer = kit.make_trainer(tmp_path, max_steps=4)
    with pytest.raises(ElfError, match="global batch 2, now it is 4"):
        trainer.fit(
            kit.TinyModule(),
            datamodule=make_data(batch_size=4, workers=0),
            ckpt_path=tmp_path / "step=1.ckpt",
            weights_only=True,
        )
