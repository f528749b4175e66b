"""Faults 2, 3 and 9 of a training whose shards come from an HTTP server that does not last."""

import time
from pathlib import Path

import pytest

from elf.preparation.remote import local_path
from elf.training.checkpoints import read_checkpoint

STEPS = 8  # and 6 an epoch


def fit(commands, training, run, *more, **fault):
    """Run `elf fit` with a checkpoint every other step; return how it ended."""
    return commands.run(
        "fit", *training, f"--trainer.default_root_dir={run}", f"--trainer.max_steps={STEPS}",
        "--trainer.limit_val_batches=0", "--trainer.log_every_n_steps=1",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
        "--model.adapter.dropout=0.2", *more, **fault,
    )  # fmt: skip


def is_there(copies, shards):
    """Whether the copy of the shards is said to be there; whatever has a final name is whole."""
    tars = {path.name for path in copies.glob("*.tar")}
    for name in tars | {path.name for path in copies.glob("[!.]*.json")}:
        assert (copies / name).read_bytes() == (shards / name).read_bytes(), name
    if not (copies / "prepared.json").exists():
        return False
    assert tars == {p.name for kind in ("latents", "captions") for p in shards.glob(f"{kind}-*tar")}
    assert not list(copies.glob(".*.partial"))
    return True


def assert_refused(ending, url):
    """Require one line that names a file behind the URL."""
    assert ending.is_refusal(), ending.said
    last = ending.said.splitlines()[-1]
    assert last.startswith(f"elf: error: {url}/") and "could not be read in 4 tries" in last, last
    assert last.endswith("start again later, what has arrived is kept")


@pytest.mark.fault(2, 3, 9)
def test_a_run_whose_server_cuts_off_and_goes_away_ends_as_one_from_a_folder(
    training, commands, serve, tmp_path, assert_same_run, figures
):
    (shards,) = (Path(a.partition("=")[2]) for a in training if a.startswith("--data.shards="))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    last = parts / "checkpoints" / "last.ckpt"
    ending = fit(commands, training, whole)
    assert ending.code == 0, ending.said

    # a server without ranges cuts off in the middle of a shard, and is gone
    server = serve(shards, ranges=None)
    server.cuts, server.cut_at, server.cut_of = 1, 70_000, "latents"
    remote = [f"--data.shards={server.url}", f"--data.shards_cache={tmp_path / 'cache'}"]
    copies, url = local_path(server.url, tmp_path / "cache"), server.url

    def go_away_when_some_has_arrived():
        server.close()
        for _ in range(600):
            if any(part.stat().st_size for part in copies.glob(".latents-*.partial")):
                break
            time.sleep(0.1)

    server.after_cut = go_away_when_some_has_arrived
    assert_refused(fit(commands, training, parts, *remote), url)
    assert server.cuts == 0 and not is_there(copies, shards)
    (partial,) = copies.glob(".latents-*.partial")
    arrived = partial.read_bytes()  # a client may lose what it had not read when it was cut off
    assert 0 < len(arrived) <= 70_000
    assert (shards / partial.name[1:].removesuffix(".partial")).read_bytes().startswith(arrived)

    # one with ranges is there; the run is killed while it fetches the rest
    server = serve(shards, port=server.server_port)
    ending = fit(commands, training, parts, *remote, below=copies, fault="k", at=6)
    assert ending.code == -9, ending.said
    assert not is_there(copies, shards)

    # again, in the middle of the third checkpoint: one takes some 1,000 operations
    ending = fit(commands, training, parts, *remote, below=last.parent, fault="k", at=2600)
    assert ending.code == -9, ending.said
    assert is_there(copies, shards)
    assert 0 < read_checkpoint(last)["global_step"] < STEPS
    assert list(last.parent.glob(".*.tmp")), "it was not killed within a checkpoint"
    saved = last.read_bytes()

    # gone again: nothing is lost
    server.close()
    assert_refused(fit(commands, training, parts, *remote, "--ckpt_path=last"), url)
    assert last.read_bytes() == saved and is_there(copies, shards)

    # back, for another machine, which has no copies yet
    server = serve(shards, port=server.server_port)
    server.cuts, server.cut_at = 2, 70_000
    remote[1] = f"--data.shards_cache={tmp_path / 'other'}"
    ending = fit(commands, training, parts, *remote, "--ckpt_path=last")
    assert ending.code == 0, ending.said
    assert server.cuts == 0 and is_there(local_path(url, tmp_path / "other"), shards)
    assert_same_run(whole, parts, STEPS)
    figures(kills=2, ulp=0)
