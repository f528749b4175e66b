"""W&B without an account or a network: what an offline run holds, and what trouble costs."""

import json
import struct
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from elf import trainer
from elf.watching.wandb_run import ID_FILE, WandbRun, has_account, run_id

BLOCK, HEAD = 32768, 7
SAMPLES = (
    "{class_path: SamplePictures, init_args: {prompts: [wood_elf], every_n_steps: 2, "
    "generation: {steps: 1, width: 64, height: 64}}}"
)
CHECKPOINT = "{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2, keep: 2}}"


def records(path: Path) -> Iterator[Any]:
    """Yield what an offline run's file holds: protobufs, in LevelDB's format of logs."""
    from wandb.proto import wandb_internal_pb2 as pb

    data, position, whole = path.read_bytes(), 7, b""  # after the file's own head
    while position + HEAD <= len(data):
        if BLOCK - position % BLOCK < HEAD:  # a block's end holds no head
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        whole += data[position + HEAD : position + HEAD + length]
        position += HEAD + length
        if kind in (1, 4):  # a full record, or its last part
            record = pb.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def kinds(path: Path) -> dict[str, list[Any]]:
    """Return the records of an ended run by their kinds.

    W&B's process writes the last of them after ``finish`` has returned.
    """
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found: dict[str, list[Any]] = {}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            found.setdefault(kind, []).append(getattr(record, kind))
        if "exit" in found:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{path} has no end")


def history(found: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in row.item}
        for row in found["history"]
    ]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_an_offline_run_has_figures_pictures_tables_adapters_and_goes_on(
    training: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = [
        *training,
        f"--trainer.default_root_dir={folder}",
        "--trainer.log_every_n_steps=1",
        f"--trainer.callbacks=[{SAMPLES},{CHECKPOINT}]",
        "--logger=wandb",
    ]
    trainer.fit([*arguments, "--trainer.max_steps=4"])
    (first,) = files(folder)
    found = kinds(first)
    rows = history(found)
    losses = [row["trainer/global_step"] for row in rows if "train/loss" in row]
    assert losses == [0, 1, 2, 3]
    assert any("lr/unet" in row for row in rows)
    pictures = [row["trainer/global_step"] for row in rows if "samples/filenames" in row]
    assert pictures == [0, 2, 4]
    tables = [row["samples_table/path"] for row in rows if "samples_table/path" in row]
    assert len(tables) == 3
    media = first.parent / "files" / "media"
    table = json.loads((media / tables[0].removeprefix("media/")).read_text())
    assert table["columns"] == [
        *("step", "prompt", "negative_prompt", "seed", "strength", "picture"),
    ]
    assert table["data"][0][:5] == [0, "wood_elf", "", 0, 1.0]
    settings = {item.key for each in found["config"] for item in each.update}
    settings |= {item.key for run in found["run"] for item in run.config.update}
    assert {"trainer", "model", "data"} <= settings
    metrics = {m.name or m.glob_name: m for m in found["metric"]}
    assert metrics["*"].step_metric == "trainer/global_step"
    assert metrics["val/*"].summary.min and metrics["val/*"].summary.last
    artifacts = [each for each in found["artifact"] if each.type == "model"]
    aliases = [set(each.aliases) for each in artifacts]
    assert aliases == [{"latest", "step-2", "checkpoint"}, {"latest", "step-4", "final"}]
    for each in artifacts:
        assert [c.path for c in each.manifest.contents] == ["pytorch_lora_weights.safetensors"]

    trainer.fit([*arguments, "--trainer.max_steps=6", "--ckpt_path=last"])
    identity = (folder / ID_FILE).read_text().strip()
    assert len(files(folder)) == 2
    assert all(path.name == f"run-{identity}.wandb" for path in files(folder))
    second = next(path for path in files(folder) if path.parent != first.parent)
    rows = history(kinds(second))
    assert [row["trainer/global_step"] for row in rows if "samples/filenames" in row] == [6]


class Broken:
    """A run whose network is down."""

    id = "x"

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(f"{name}: no route to host\nand a long story")


def test_trouble_is_told_once_and_nothing_is_raised(tmp_path: Path) -> None:
    run = WandbRun(str(tmp_path))
    run._experiment = Broken()
    with pytest.warns(UserWarning, match=r"^W&B: figures are missing \(log: no route to host\); t"):
        run.log_metrics({"a": 1.0}, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log_metrics({"a": 1.0}, 1)
    with pytest.warns(UserWarning, match="the configuration is missing"):
        run.log_settings({"a": 1})
    with pytest.warns(UserWarning, match="the run's end is missing"):
        run.finalize("success")


def test_a_training_survives_a_broken_run(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WandbRun, "_begin", lambda self: Broken())
    arguments = [
        *training,
        f"--trainer.default_root_dir={tmp_path}",
        "--trainer.max_steps=2",
        f"--trainer.callbacks=[{SAMPLES},{CHECKPOINT}]",
        "--logger=wandb",
    ]
    with pytest.warns(UserWarning) as warned:
        trainer.fit(arguments)
    told = [str(each.message).split(" (")[0] for each in warned]
    assert len(told) == len(set(told)) and all(text.startswith("W&B: ") for text in told)
    assert {"W&B: figures are missing", "W&B: the adapter's file is missing"} <= set(told)
    assert (tmp_path / "samples/step-000002.png").is_file()


def test_what_cannot_be_reached_at_the_start_is_recorded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    begin, modes = wandb.init, []

    def unreachable(**options: Any) -> Any:
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("timed out")
        return begin(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    run = WandbRun(str(tmp_path))
    with pytest.warns(UserWarning, match=r"W&B: cannot begin online \(timed out\); training goes"):
        run.log_metrics({"a": 1.0}, 0)
    run.finalize("success")
    assert modes == ["online", "offline"]
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("account", [True, False])
def test_an_account_is_a_key_or_an_entry_in_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: bool
) -> None:
    if account:
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password x\n")
    assert has_account() is account
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_account()


def test_a_run_keeps_its_id_only_when_it_goes_on(tmp_path: Path) -> None:
    first = run_id(tmp_path, goes_on=False)
    assert run_id(tmp_path, goes_on=True) == first
    assert run_id(tmp_path, goes_on=False) != first
