"""`elf plan` on the tiny base, end to end: what it says is what `elf fit` will do, or refuses."""

from pathlib import Path

import pytest

from elf import cli
from elf.errors import ElfError

CONFIG = "--config=configs/train/quickstart.yaml"


@pytest.fixture
def unprepared(labelled: Path, tiny_models: dict[str, Path], tmp_path: Path) -> list[str]:
    """Arguments of a training whose pictures are labelled and nothing else."""
    return [
        CONFIG,
        f"--model.base={tiny_models['base']}",
        f"--data.pictures={labelled / 'pictures'}",
        f"--data.labels={labelled / 'labels'}",
        f"--data.shards={tmp_path / 'shards'}",
        f"--trainer.default_root_dir={tmp_path / 'run'}",
    ]


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """Return what is printed by topic."""
    capsys.readouterr()
    cli.run(["plan", *arguments])
    topics: dict[str, list[str]] = {}
    label = ""
    for line in capsys.readouterr().out.splitlines():
        label = line[:11].strip() or label
        topics.setdefault(label, []).append(line[11:])
    return topics


def test_a_plan(unprepared: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, *unprepared, "--gpu=3060ti")
    assert found["config"] == ["valid"]
    assert "Stable Diffusion 1.5, epsilon, not loaded" in found["base"][0]
    assert found["pictures"] == ["23 to train on, 1 held out (by their headers)"]
    assert found["buckets"] == [
        "size   pictures  batches  last batch",
        "64×64        15        2  9 of 12 filled up",
        "48×80         8        1  4 of 12 filled up",
    ]
    assert found["steps"] == ["600 of 12 pictures: 7,200 pictures seen, 200.0 epochs of 3 batches"]
    assert found["adapter"] == ["unet: 70 layers, 329,728 parameters trained"]
    assert [line.split("  ")[0] for line in found["memory"]][:5] == [
        "frozen weights",
        "adapter, gradients, AdamW",
        "activations",
        "workspaces, gaps",
        "reserved at the peak",
    ]
    assert found["fits"][0].startswith("yes: ") and "of 7.20 GiB" in found["fits"][0]
    assert "a step, captured" in found["time"][0] and "for 600" in found["time"][0]
    assert [line.split("  ")[0] for line in found["disk"]] == [
        "latents of 24 pictures",
        "text states of 49 captions",
        "4 checkpoints",
        "3 sheets of sample pictures, at most",
    ]
    assert not Path(unprepared[-1].partition("=")[2]).exists()  # nothing was written


def test_shards_say_the_same_as_headers(
    training: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = plan(capsys, *training)
    headers = plan(capsys, *training, f"--data.shards={tmp_path / 'none'}")
    assert "from the shards in" in prepared["pictures"][0]
    assert "by their headers" in headers["pictures"][0]
    for topic in ("buckets", "crop loss", "steps", "adapter", "memory", "disk"):
        assert prepared[topic] == headers[topic]


def test_stale_shards_are_told(training: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    found = plan(capsys, *training, "--data.bucket_step=8")
    assert "by their headers; " in found["pictures"][0]
    assert "was prepared with data.bucket_step=16, this config says 8" in found["pictures"][0]


def test_without_a_card_there_is_no_time(
    unprepared: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elf.planning.request.card_at_hand", lambda: None)
    found = plan(capsys, *unprepared)
    assert found["fits"] == ["unknown: there is no GPU here; name one by --gpu"]
    assert found["time"] == ["unknown: there is no card that Elf has figures of"]


def test_a_card_without_figures(
    unprepared: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elf.planning.request.card_at_hand", lambda: ("Fast 1", None, 1 << 30))
    found = plan(capsys, *unprepared, "--trainer.accelerator=auto")
    assert "of 1.00 GiB, free on the Fast 1 at hand" in found["fits"][0]
    assert found["time"] == ["unknown: the Fast 1 is no card that Elf has figures of"]


@pytest.mark.slow
def test_memory_is_more_where_there_are_no_fused_kernels(
    unprepared: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = plan(capsys, *unprepared)["memory"]
    plain = plan(capsys, *unprepared, "--model.fused_kernels=false")["memory"]
    assert fused != plain
    # a GPU without Triton
    monkeypatch.setattr("elf.planning.request.can_compile_here", lambda: False)
    assert plan(capsys, *unprepared)["memory"] == plain
    assert plan(capsys, *unprepared, "--model.torch_compile=blocks")["memory"] == plain


@pytest.mark.slow
def test_what_does_not_fit_is_advised(
    unprepared: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 110 << 20
    monkeypatch.setattr("elf.planning.request.card_at_hand", lambda: ("Small 1", None, room))
    wanted = [*unprepared, "--trainer.accelerator=auto"]
    found = plan(capsys, *wanted)
    assert found["fits"][0].startswith("no: 0.16 GiB, and 0.11 GiB are there")
    (advice,) = [line for line in found["fits"] if "data.batch_size" in line]
    batch = advice.removeprefix("with data.batch_size ").partition(":")[0]
    assert plan(capsys, *wanted, f"--data.batch_size={batch}")["fits"][0].startswith("yes: ")


@pytest.mark.slow
def test_blocks_that_are_advised_make_it_fit(
    unprepared: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 145 << 20
    monkeypatch.setattr("elf.planning.request.card_at_hand", lambda: ("Small 1", None, room))
    wanted = [*unprepared, "--trainer.accelerator=auto"]
    (advice,) = [line for line in plan(capsys, *wanted)["fits"] if "checkpointing [" in line]
    value = advice.removeprefix("with model.gradient_checkpointing ").partition(":")[0]
    found = plan(capsys, *wanted, f"--model.gradient_checkpointing={value}")
    assert found["fits"][0].startswith("yes: ")
    other = plan(capsys, *wanted, "--model.gradient_checkpointing=[mid_block]")
    assert "with model.gradient_checkpointing true: " in other["fits"][1]


@pytest.mark.slow
def test_where_no_change_suffices_all_are_tried(
    unprepared: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elf.planning.request.card_at_hand", lambda: ("Small 1", None, 1 << 20))
    found = plan(capsys, *unprepared, "--trainer.accelerator=auto")
    assert "no single change makes it fit; model.gradient_checkpointing true" in found["fits"][1]
    assert "together does not fit either" in found["fits"][1]


def test_a_probe_on_a_cpu_takes_the_time(
    unprepared: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(capsys, *unprepared, "--probe", "--data.batch_size=1")
    assert found["probe"][0].split() == ["predicted", "measured"]
    step = found["probe"][1].split()
    assert step[:3] == ["a", "step", "unknown"] and step[-1] in ("ms", "s")


def test_a_run_that_is_there_is_told(
    unprepared: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/last.ckpt").touch()
    found = plan(capsys, *unprepared)
    assert "holds a run: fit goes on with it, by --ckpt_path last" in found["config"][1]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--gpu=RTX 3061", "--gpu: no card 'RTX 3061' is known.*RTX 3060"),
        ("--model.adapter.rnak=8", "rnak"),
        ("--model.adapter.rank=0", "model.adapter.rank"),
        ("--trainer.precision=16-mixed", "trainer.precision: '16-mixed' needs a GPU"),
        ("--trainer.val_check_interval=-1", r"trainer\.val_check_interval -1 is too small: at"),
        ("--trainer.max_steps=-1", "model.schedule.shape cosine: the run has no known length"),
        ("--data.remainder=drop", None),
        ("--data.bucket_step=6", "data.bucket_step 6 is no multiple of 4"),
        ("--data.labels=nowhere", "nowhere"),
        ("--model.base=nowhere", "nowhere"),
        ("--model.adapter.targets=[nothing]", "nothing"),
        ("--model.gradient_checkpointing=[up_block.1]", "'up_block.1'; did you mean up_blocks.1"),
        ("--trainer.gradient_clip_val=-1", "gradient_clip_val -1 must be above 0"),
    ],
)
def test_what_fit_refuses_is_refused(
    unprepared: list[str], argument: str, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if message is None:
        unprepared, message = [*unprepared, "--data.batch_size=99"], "leaves no batch"
    with pytest.raises(ElfError, match=message) as refusal:
        cli.run(["plan", *unprepared, argument])
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""


def test_another_config_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ElfError, match="plan needs a training config"):
        cli.run(["plan", "--config=configs/tag/quickstart.yaml"])
