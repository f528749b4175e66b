import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.trainer.states import RunningStage

from elf.datamodules.reading import BatchReading
from elf.datamodules.shards import ShardDataModule
from elf.draws import draw_seed
from elf.errors import ElfError
from elf.preparation.prepared import read_prepared

pytestmark = [
    # lightning 2.6.6 with torch 2.14: a rename inside torch.utils._pytree
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes"),
]


def draws(batches):
    return [(tuple(batch["id"]), tuple(batch["seed"].tolist())) for batch in batches]


def test_another_seed_gives_another_order(make_data):
    assert draws(make_data(seed=1, workers=0).train_dataloader()) != draws(
        make_data(seed=2, workers=0).train_dataloader()
    )


@pytest.mark.parametrize(("samples", "number"), [(1, 1), (2, 1), (3, 2), (21, 11)])
def test_the_first_batches_are_those_of_training(make_data, samples, number):
    data = make_data(workers=2)
    loader = data.train_dataloader()
    first = draws(data.first_batches(samples))
    assert len(first) == number  # of 2 samples; 8 are an epoch
    assert first == (draws(loader) + draws(loader))[:number], "which begins at its own beginning"


@pytest.mark.parametrize("workers", [0, 2])
def test_the_state_counts_what_was_handed_over_not_what_was_read_ahead(make_data, workers):
    loader = make_data(workers=workers).train_dataloader()
    assert len(loader) == 8
    whole = draws(loader) + draws(loader)  # two epochs
    loader.load_state_dict({**loader.state_dict(), "epoch": 0, "batch": 0})
    iterator = iter(loader)
    for count in range(1, 6):
        next(iterator)
        assert (loader.state_dict()["epoch"], loader.state_dict()["batch"]) == (0, count)
    iter(loader)  # looking at it changes nothing
    assert len(loader) == 8 and loader.state_dict()["batch"] == 5
    # a new iterator goes on from there, though workers were ahead, into the next epoch
    assert draws(loader) == whole[5:13]
    assert loader.state_dict() == {
        "epoch": 1, "batch": 5, "seed": 0, "index": loader.index_hash, "global_batch": 2,
        "options": {"caption_dropout": 0.3, "prior_preservation": 0.25},
    }  # fmt: skip


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_read_on_across_the_ends_of_epochs(make_data, workers, monkeypatch):
    begun, begin = [], BatchReading.__iter__
    monkeypatch.setattr(BatchReading, "__iter__", lambda self: begun.append(1) or begin(self))
    loader = make_data(workers=workers).train_dataloader()
    start = loader.state_dict()
    whole = draws(loader) + draws(loader) + draws(loader)
    assert len(begun) == 1
    assert loader.waited > 0
    loader.load_state_dict({**start, "epoch": 1, "batch": 3})
    assert draws(loader) == whole[11:19]
    assert len(begun) == 2
    loader.close()  # and begin anew, where it stood
    assert draws(loader)[:5] == whole[19:]
    assert len(begun) == 3


def test_the_global_random_state_is_not_touched(make_data):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for workers in (0, 2):
        list(make_data(workers=workers).train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_changed_run_is_refused_with_both_values(make_data):
    loader = make_data(workers=0).train_dataloader()
    state = loader.state_dict()
    for key, value, message in (
        (
            "index",
            "feed",
            rf"trained with prepared data feed, now it is {loader.index_hash}, so .*: restore "
            r"pictures, labels and models and run `elf prepare`, and .* repeats, flip, weight and",
        ),
        ("global_batch", 64, r"trained with global batch 64, now it is 2, so .*batch_size × dev"),
        ("seed", 9, r"trained with data\.seed 9, now it is 0, so .*set it back"),
        (
            "options",
            {**state["options"], "prior_preservation": 0.5},
            r"with data\.prior_preservation 0\.5, now it is 0\.25, so the run cannot be .*: set it",
        ),
    ):
        with pytest.raises(ElfError, match=message):
            loader.load_state_dict({**state, key: value})


# --- ranks ------------------------------------------------------------------------------------


class World:
    """What the datamodule asks the trainer for."""

    lightning_module = None

    def __init__(self, world_size, global_rank):
        self.world_size, self.global_rank = world_size, global_rank


@pytest.mark.fault(10)
@pytest.mark.parametrize("world", [2, 4, 8])
def test_every_world_size_gives_the_same_global_batches(make_data, world):
    alone = draws(make_data(batch_size=8, workers=0).train_dataloader())
    ranks = []
    for rank in range(world):
        data = make_data(batch_size=8 // world, workers=0)
        data.trainer = World(world, rank)
        ranks.append(draws(data.train_dataloader()))
    for number, (ids, seeds) in enumerate(alone):
        for rank in range(world):
            assert ranks[rank][number] == (ids[rank::world], seeds[rank::world])


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_the_held_out_samples(make_data, world):
    seen = []
    for rank in range(world):
        data = make_data(workers=0)
        data.trainer = World(world, rank)
        seen += [name for batch in data.val_dataloader()[0] for name in batch["id"]]
    assert len(set(seen)) == 6
    # each rank has a batch: all meet after the last, and none may be missing
    assert len(seen) == 6 + 2 * max(0, world - 4)


def test_lightning_replaces_no_sampler(kit, make_data, tmp_path, monkeypatch):
    trainer = kit.make_trainer(tmp_path, max_steps=1)
    monkeypatch.setattr(type(trainer._accelerator_connector), "is_distributed", True)
    assert trainer._accelerator_connector.use_distributed_sampler
    data = make_data(workers=0)
    for loader in (data.train_dataloader(), data.val_dataloader()[0]):
        for stage in (RunningStage.TRAINING, RunningStage.VALIDATING):
            prepare = trainer._data_connector._prepare_dataloader
            assert prepare(loader, shuffle=True, mode=stage) is loader


DDP = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("kit", sys.argv[1])
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
from elf.datamodules.shards import ShardDataModule

class Module(kit.TinyModule):
    def on_train_end(self):
        record = [self.seen, [w.tolist() for w in kit.weights(self)]]
        open(f"{sys.argv[3]}/{self.global_rank}.json", "w").write(json.dumps(record))

world, checkpoint = int(sys.argv[4]), sys.argv[5] or None
strategy = "ddp_fork" if world > 1 else "auto"
trainer = kit.make_trainer(sys.argv[3], kit.SaveEachStep(sys.argv[3]), max_epochs=2,
                           devices=world, strategy=strategy)
settings = {**kit.SETTINGS, "batch_size": 4 // world, "workers": 0}
data = ShardDataModule(shards=sys.argv[2], **settings)
trainer.fit(Module(), datamodule=data, ckpt_path=checkpoint, weights_only=True)
"""


@pytest.mark.fault(10)
@pytest.mark.slow
def test_two_processes_train_as_one_and_one_resumes_from_two(kit, prepared, tmp_path):
    import json

    def run(world, name, checkpoint=""):
        (tmp_path / name).mkdir()
        arguments = [kit.__file__, prepared, tmp_path / name, str(world), checkpoint]
        subprocess.run([sys.executable, "-W", "ignore", "-c", DDP, *arguments], check=True)
        files = sorted((tmp_path / name).glob("?.json"))
        return [json.loads(file.read_text()) for file in files]

    ((alone, weights),) = run(1, "one")
    pair = run(2, "two")
    assert len(pair) == 2
    for rank, (seen, its) in enumerate(pair):
        assert seen == [[ids[rank::2], seeds[rank::2]] for ids, seeds in alone]
        for mine, one in zip(its, weights, strict=True):
            np.testing.assert_allclose(mine, one, atol=1e-6)
    half = len(alone) // 4
    ((rest, its),) = run(1, "resumed", str(tmp_path / "two" / f"step={half}.ckpt"))
    assert rest == alone[half:]
    for mine, one in zip(its, weights, strict=True):
        np.testing.assert_allclose(mine, one, atol=1e-6)


# --- what is in a batch -----------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_holds_what_training_needs(make_data, prepared, workers):
    data = make_data(workers=workers)
    found = {example.id: example for example in read_prepared(prepared, data.settings).train}
    for batch in data.train_dataloader():
        height, width = batch["size"][0].tolist()
        assert batch["latent_mean"].shape == (2, 2, height // 8, width // 8)
        assert batch["latent_std"].shape == batch["latent_mean"].shape
        assert batch["text"].shape == (2, 3, 4)
        assert {batch[key].dtype for key in ("latent_mean", "latent_std", "text")} == {
            torch.float32
        }
        assert batch["seed"].dtype == torch.int64
        for row, name in enumerate(batch["id"]):
            latent = found[name].latent.read(data._reader)
            assert batch["latent_mean"][row].tolist() == latent[0].tolist()
            assert batch["latent_std"][row].tolist() == latent[1].tolist()
            assert tuple(batch["original_size"][row].tolist()) == found[name].original_size
            assert tuple(batch["crop"][row].tolist()) == (0, 0)


def epoch_of(loader):
    return itertools.islice(loader.position, len(loader))


def test_caption_dropout_gives_the_empty_captions_state_at_the_asked_rate(make_data):
    for share in (0.0, 1.0):
        loader = make_data(workers=0, caption_dropout=share).train_dataloader()
        empty = [not text.any() for batch in loader for text in batch["text"]]
        assert np.mean(empty) == share
    loader = make_data(workers=0, caption_dropout=0.3).train_dataloader()
    dropped = []
    for loader.position.epoch in range(200):
        dropped += [draw.dropped for draws in epoch_of(loader) for draw in draws]
    assert abs(np.mean(dropped) - 0.3) < 0.03  # 3,200 draws: deviation 0.008


@pytest.mark.parametrize("workers", [0, 2])
def test_preserved_samples_get_the_caption_without_the_trigger(make_data, workers):
    options = {"workers": workers, "caption_dropout": 0.0, "prior_preservation": 0.5}
    rows = [(float(text.mean()), bool(preserved))
            for batch in make_data(**options).train_dataloader()
            for text, preserved in zip(batch["text"], batch["preserved"], strict=True)]  # fmt: skip
    assert {preserved for _, preserved in rows} == {True, False}
    assert all((number < 0) is preserved for number, preserved in rows)
    validated = list(make_data(**options).val_dataloader()[0])
    assert all(not batch["preserved"].any() and (batch["text"] > 0).all() for batch in validated)


def test_the_asked_share_is_preserved_whatever_is_dropped(make_data):
    loader = make_data(workers=0, caption_dropout=0.4, prior_preservation=0.3).train_dataloader()
    draws = []
    for loader.position.epoch in range(200):
        draws += [draw for draws in epoch_of(loader) for draw in draws]
    preserved = np.array([draw.preserved for draw in draws])
    dropped = np.array([draw.dropped for draw in draws])
    assert abs(preserved.mean() - 0.3) < 0.03  # 3,200 draws: deviation 0.008
    assert abs(preserved[dropped].mean() - 0.3) < 0.05  # the draws are independent


def test_a_sample_that_fills_a_batch_gets_another_seed(make_data):
    pairs = [pair for batch in make_data(workers=0, batch_size=8).train_dataloader()
             for pair in zip(batch["id"], batch["seed"].tolist(), strict=True)]  # fmt: skip
    assert len(pairs) == 24 > len({name for name, _ in pairs}) == 14
    assert len(set(pairs)) == 24


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_validation_is_the_same_for_every_seed_and_batch_size(make_data, batch_size):
    data = make_data(seed=batch_size, batch_size=batch_size, workers=0, caption_dropout=1.0)
    pairs = {}
    for batch in data.val_dataloader()[0]:
        assert (batch["text"].amax((1, 2)) > 0).all()  # no dropout
        pairs |= dict(zip(batch["id"], batch["seed"].tolist(), strict=True))
    assert len(pairs) == 6
    assert pairs == {name: draw_seed(0, 0, [name]).item() for name in pairs}


def test_lightning_validates_every_held_out_sample_once(kit, make_data, tmp_path):
    module = kit.TinyModule()
    kit.make_trainer(tmp_path).validate(module, datamodule=make_data(workers=0), verbose=False)
    assert len(module.validated) == 6


def test_nothing_held_out_means_no_validation(kit, tmp_path):
    (tmp_path / "shards").mkdir()
    folder = kit.write_prepared_folder(tmp_path / "shards", held_out=0)
    data = ShardDataModule(shards=str(folder), **{**kit.SETTINGS, "workers": 0})
    assert data.val_dataloader() == []
    module = kit.TinyModule()
    with pytest.warns(UserWarning, match="Total length of `list` across ranks is zero"):
        kit.make_trainer(tmp_path, max_steps=2, max_epochs=1).fit(module, datamodule=data)
    assert len(module.seen) == 2 and not module.validated


# --- what goes wrong --------------------------------------------------------------------------


def test_nothing_prepared_is_said_before_training(kit, tmp_path):
    data = ShardDataModule(shards=str(tmp_path / "none"))
    with pytest.raises(ElfError, match=r"prepared.json is missing: run `elf prepare --config"):
        kit.make_trainer(tmp_path, max_epochs=1).fit(kit.TinyModule(), datamodule=data)


def test_caches_of_another_model_are_refused(kit, make_data, tmp_path):
    class Other(kit.TinyModule):
        def fingerprints(self):
            return {"vae": "v", "text": "another"}

    with pytest.raises(ElfError, match=r"made by another text model \(t…, this one is another…\)"):
        kit.make_trainer(tmp_path, max_steps=1).fit(Other(), datamodule=make_data(workers=0))


@pytest.mark.fault(6)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_cut_while_training_is_one_line_from_any_worker(kit, tmp_path, workers):
    folder = kit.write_prepared_folder(tmp_path)
    data = ShardDataModule(shards=str(folder), **{**kit.SETTINGS, "workers": workers})
    iterator = iter(data.train_dataloader())
    os.truncate(folder / "latents-00000-of-00001.tar", 600)
    with pytest.raises(ElfError, match=r"latents-\S+ is cut or damaged \(it ends before") as error:
        list(iterator)
    assert "\n" not in str(error.value)
    data.teardown("test")


# torch raises its RuntimeError of a dead worker in whatever Python does just then; in a callback of
# the garbage collector it is printed, and lost
@pytest.mark.fault(12)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dead_worker_is_an_error_not_a_hang(make_data):
    loader = make_data(workers=1).train_dataloader()
    iterator = iter(loader)
    next(iterator)
    (worker,) = loader._reading._loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(ElfError, match=r"a process that reads the shards died \(killed"):
        while True:
            list(loader)


def test_a_batch_that_no_bucket_fills_is_refused(make_data):
    with pytest.raises(ElfError, match=r"remainder=drop leaves no batch: no bucket has the 64 pic"):
        make_data(batch_size=64, remainder="drop", workers=0).train_dataloader()


def test_batches_that_are_mostly_repetition_are_told(make_data, capsys):
    make_data(batch_size=2, workers=0).train_dataloader()
    assert "data.batch_size" not in capsys.readouterr().out
    make_data(batch_size=64, workers=0).train_dataloader()
    assert re.search(
        r"data.batch_size 64 is more than most buckets hold: \d+ of an epoch's \d+ places show a",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"^data\.batch_size 0 is too small: at least 1$"),
        ({"workers": -1}, r"^data\.workers -1 is too small: at least 0$"),
        ({"shard_size": 0}, r"^data\.shard_size 0 is too small: at least 1$"),
        ({"held_out": 5}, r"^data\.held_out 5 is a share: give a number from 0 to 1$"),
        ({"caption_dropout": -0.1}, r"^data\.caption_dropout -0\.1 is a share"),
        ({"prior_preservation": 1.1}, r"^data\.prior_preservation 1\.1 is a share"),
        ({"trigger": "\t"}, r"^data\.trigger '\\t' is blank: give a word, or null for none$"),
        ({"prior_preservation": 0.3}, r"takes the trigger out of captions: set data\.trigger$"),
    ],
)
def test_values_out_of_range_are_refused_by_their_key(options, message):
    with pytest.raises(ElfError, match=message):
        ShardDataModule(**options)


def test_the_signature_is_the_schema_of_the_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ShardDataModule, "data")
    config = parser.parse_args(["--data.caption=both", "--data.max_side=null", "--data.seed=3"])
    data = parser.instantiate(config).data
    assert data.settings.caption == "both" and data.seed == 3
    with pytest.raises(Exception, match="caption"):
        parser.parse_args(["--data.caption=poem"])


def test_the_loader_works_in_spawned_workers(make_data, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    loader = make_data(workers=1).train_dataloader()
    whole = draws(make_data(workers=0).train_dataloader())
    loader._reading._loader.multiprocessing_context = "spawn"
    assert draws(loader) == whole
