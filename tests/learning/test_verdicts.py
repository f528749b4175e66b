"""What `elf test` says of adapters that are known to be good, or known not to be.

They are trained with the real commands on the small world that ships with Elf.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from elf import trainer
from elf.quickstart import EVAL, TAG, TRAIN, draw_pictures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Data:
    """Pictures with labels and shards of their own."""

    def __init__(self, folder: Path, count: int, *options: str, shift: int = 0) -> None:
        pictures, labels = folder / "pictures", folder / "labels"
        draw_pictures(folder / "all")
        pictures.mkdir()
        for path in sorted((folder / "all").iterdir())[:count]:
            shutil.copy(path, pictures)
        places = [f"--data.root={pictures}", f"--data.labels={labels}"]
        trainer.predict([f"--config={TAG}", *places, f"--data.cache={folder / 'cache'}"])
        files = sorted(labels.glob("*.txt"))
        texts = [path.read_text() for path in files]
        for path, text in zip(files, texts[shift:] + texts[:shift], strict=True):
            path.write_text(text)
        self.folder, self.shards = folder, folder / "shards"
        self.arguments = [
            f"--config={TRAIN}",
            f"--data.pictures={pictures}",
            f"--data.labels={labels}",
            f"--data.shards={self.shards}",
            *options,
        ]
        trainer.prepare(self.arguments)

    def verdict(
        self, *options: str, strengths: tuple[float, ...] = (0.5, 1)
    ) -> tuple[dict[str, Any], dict[str, dict[float, Any]]]:
        """Train an adapter; return its verdict, and its rows by name and strength."""
        run, output = (self.folder / f"{kind}-{len(options)}" for kind in ("run", "test"))
        trainer.fit(
            [
                *self.arguments,
                f"--trainer.default_root_dir={run}",
                "--trainer.callbacks=null",
                "--trainer.enable_progress_bar=false",
                *options,
            ]
        )
        trainer.test(
            [
                f"--config={EVAL}",
                f"--model.adapter={run}",
                f"--model.strengths={list(strengths)}",
                f"--model.base_pictures={self.folder.parent / 'base'}",
                f"--model.embeddings={self.folder.parent / 'embeddings'}",
                "--data.seeds=[0, 1]",
                f"--data.shards={self.shards}",
                f"--trainer.default_root_dir={output}",
            ]
        )
        found = json.loads((output / "metrics.json").read_text())
        (verdict,) = found["verdict"]["adapters"]
        by_variant = {each["name"]: each["strength"] for each in found["variants"]}
        rows: dict[str, dict[float, Any]] = {}
        for row in found["rows"]:
            rows.setdefault(row["name"], {})[by_variant.get(row["variant"])] = row
        return verdict, rows


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("verdicts") / "usual", 24)


def test_a_good_one_is_good_where_the_rates_say(usual: Data) -> None:
    strengths = (0.4, 0.7, 1, 1.3)
    verdict, rows = usual.verdict("--trainer.max_steps=600", strengths=strengths)
    assert verdict["kind"] == "good", verdict["line"]
    shown = {each: rows["concept_rate"][each]["adapter"] for each in strengths}
    asked = {each: rows["attribute_rate"][each]["adapter"] for each in strengths}
    assert shown[0.4] < 0.5 < 0.9 < shown[1]  # a weak one shows the leaf crown in few pictures
    use = verdict["strength"]
    assert shown[use] >= 0.95 * max(shown.values()) and asked[use] > 0.9
    assert use == 1
    assert 0.4 not in verdict["strengths"]


def test_one_of_a_few_steps_is_undertrained(usual: Data) -> None:
    verdict, _ = usual.verdict("--trainer.max_steps=20", "--model.schedule.warmup=0.1")
    assert verdict["kind"] == "undertrained", verdict["line"]
    assert verdict["strength"] is None


def test_one_that_did_not_train_changes_nothing(usual: Data) -> None:
    verdict, _ = usual.verdict(
        "--trainer.max_steps=2", "--model.optimizer.init_args.lr=1e-12", "--data.workers=0"
    )
    assert verdict["kind"] == "no_change", verdict["line"]


def test_one_that_knows_its_few_pictures_by_heart_is_told(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = Data(
        tmp_path_factory.mktemp("verdicts") / "few",
        8,
        "--data.held_out=0.2",
        "--data.prior_preservation=0",
        "--data.caption_dropout=0",
        "--data.batch_size=6",
    )
    verdict, rows = data.verdict("--trainer.max_steps=800", "--model.adapter.dropout=0")
    assert verdict["kind"] == "memorised", verdict["line"]
    loss = {name: rows[f"{name}_loss"][1] for name in ("trained", "held_out")}
    assert loss["trained"]["adapter"] < loss["trained"]["base"] / 10
    assert loss["held_out"]["adapter"] > loss["held_out"]["base"]


def test_one_whose_captions_were_of_other_pictures_ignores_prompts(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    data = Data(
        tmp_path_factory.mktemp("verdicts") / "mixed",
        24,
        "--data.prior_preservation=0",
        shift=7,
    )
    verdict, rows = data.verdict("--trainer.max_steps=600")
    assert verdict["kind"] == "ignores_prompts", verdict["line"]
    assert rows["subject_share"][1]["adapter"] > 0.5
