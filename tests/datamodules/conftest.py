"""Prepared shards without any model, and a module small enough to be trained a hundred times."""

import hashlib
import io
import json
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from elf.datamodules.shards import ShardDataModule
from elf.images import picture_id
from elf.preparation.caches import pack, text_key
from elf.preparation.prepare import prepare
from elf.preparation.prepared import write_prepared
from elf.preparation.shards import Sample, write_shard
from elf.preparation.trigger import without_trigger

CHANNELS, TOKENS, WIDTH = 2, 3, 4
SETTINGS = {"resolution": 64, "bucket_step": 8, "batch_size": 2, "caption_dropout": 0.3,
            "trigger": "tok", "prior_preservation": 0.25, "validate_trained": 0}  # fmt: skip


def write_prepared_folder(folder, counts=((64, 64, 12), (48, 80, 8)), held_out=3):
    """Write shards of some pictures for each (width, height, count), the last of them held out."""
    draw = np.random.default_rng(0)
    train, held, latents, captions = [], [], [], {""}
    for width, height, count in counts:
        for number in range(count):
            key = f"{width * 1000 + number:016x}"[::-1]
            caption = f"tok, caption {number % 4}"
            meta = {"stamp": key, "width": 2 * width, "height": 2 * height,
                    "bucket": [width, height], "resized": [width, height], "crop": [0, 0],
                    "caption": caption}  # fmt: skip
            (held if number >= count - held_out else train).append(Sample(key, {}, meta))
            shape = (2, CHANNELS, height // 8, width // 8)
            data = pack(draw.normal(size=shape).astype(np.float32), key)
            latents.append(Sample(key, {"latent.npy": data}, {"stamp": "", "shape": shape}))
            captions |= {caption, without_trigger(caption, "tok")}
    texts = []
    for caption in captions:
        number = len(caption) and int(caption[-1]) + 1  # below 0 without the trigger
        state = np.full((TOKENS, WIDTH), number if "tok" in caption else -number, np.float32)
        meta = {"stamp": "", "shape": state.shape}
        texts.append(Sample(text_key(caption), {"text.npy": pack(state, caption)}, meta))
    tars = []
    for kind, samples in (("train", train), ("heldout", held), ("latents", latents),
                          ("captions", texts)):  # fmt: skip
        tars.append(folder / f"{kind}-00000-of-00001.tar")
        write_shard(tars[-1], sorted(samples, key=lambda sample: sample.key))
    data = ShardDataModule(shards=str(folder), **SETTINGS)
    write_prepared(folder, data.settings, {"vae": "v", "text": "t"}, tars)
    return folder


class TinyModule(LightningModule):
    """Predicts a sample's noise; remembers every batch it saw."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(CHANNELS, CHANNELS, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
        self.seen, self.validated, self.begun = [], [], []

    def on_train_epoch_start(self):
        self.begun.append(self.current_epoch)

    def loss(self, batch):
        noise = torch.stack([
            torch.randn(mean.shape, generator=torch.Generator().manual_seed(int(seed)))
            for mean, seed in zip(batch["latent_mean"], batch["seed"], strict=True)
        ])  # fmt: skip
        noisy = batch["latent_mean"] + batch["latent_std"] * noise
        text = batch["text"].mean((1, 2)).view(-1, 1, 1, 1)
        return (self.layer(noisy) - noise - text).square().mean()

    def training_step(self, batch, _):
        self.seen.append((tuple(batch["id"]), tuple(batch["seed"].tolist())))
        return self.loss(batch)

    def validation_step(self, batch, _, dataloader_idx=0):
        self.validated += zip(batch["id"], batch["seed"].tolist(), strict=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


class SaveEachStep(Callback):
    """A checkpoint after each optimizer step, where a step ends (and nowhere later).

    After `fit` has ended by `max_steps`, Lightning has already counted the epoch it cut as a whole
    one: a checkpoint saved then (or in `on_train_end`) resumes into a wrong place.
    """

    def __init__(self, folder):
        self.folder = folder

    def on_train_start(self, trainer, module):
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step > self.saved:
            self.saved = trainer.global_step
            trainer.save_checkpoint(f"{self.folder}/step={self.saved}.ckpt")


def make_trainer(root, *callbacks, **options):
    defaults = dict(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
    )  # fmt: skip
    return Trainer(default_root_dir=root, callbacks=list(callbacks), **(defaults | options))


def weights(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def assert_same_run(module, reference):
    """Require the order, the seeds, the weights and the optimizer of the undisturbed run."""
    assert module.seen == reference.seen[len(reference.seen) - len(module.seen) :]
    for mine, theirs in zip(weights(module), weights(reference), strict=True):
        assert torch.equal(mine, theirs)
    mine, theirs = (m.trainer.optimizers[0].state_dict() for m in (module, reference))
    assert mine["param_groups"] == theirs["param_groups"]
    for number, state in theirs["state"].items():
        for name, value in state.items():
            assert torch.equal(mine["state"][number][name], value)


# --- labelled pictures, to be prepared ---------------------------------------------------------

PICTURES = 14
TAGS = ("red hat", "green coat", "forest", "smile", "long hair")
SENTENCE = "A wood elf, smiling."


def digest(caption, count):
    """Numbers that say which caption they are of, and are whole in float16."""
    return list(hashlib.sha256(caption.encode()).digest()[:count])


class Hashing:
    """Frozen models of SDXL's form, whose text states tell the caption; reads 60 characters."""

    latent_factor = 8

    def __init__(self):
        self.captions = []

    def encode_pictures(self, pixels):
        mean = torch.nn.functional.avg_pool2d(pixels, 8)[:, :2]
        return mean, mean.abs()

    def encode_captions(self, captions):
        self.captions += captions
        states = torch.tensor([digest(caption, 12) for caption in captions]).float()
        pooled = torch.tensor([digest(caption[::-1], 5) for caption in captions]).float()
        return {"text": states.view(-1, 3, 4), "pooled": pooled}

    def count_cut(self, captions):
        return sum(len(caption) > 60 for caption in captions)

    def fingerprints(self):
        return {"vae": "v", "text": "t"}


class Project:
    """Labelled pictures of two shapes, and what is prepared of them."""

    sentence = SENTENCE
    digest = staticmethod(digest)

    def __init__(self, root):
        self.root, self.encoder, self.tags = root, Hashing(), {}
        (root / "raw").mkdir(parents=True)
        (root / "labels").mkdir()
        for number in range(PICTURES):
            buffer = io.BytesIO()
            size = (64, 64) if number % 3 else (80, 48)
            noise = np.random.default_rng(number).integers(0, 256, (*size[::-1], 3))
            Image.fromarray(noise.astype(np.uint8)).save(buffer, "PNG")
            name = picture_id(buffer.getvalue())
            (root / f"raw/{number}.png").write_bytes(buffer.getvalue())
            self.tags[name] = ["tok", f"number {number}", *TAGS[: 2 + number % 4]]
            self.label(name, number, ", ".join(self.tags[name]))

    def label(self, name, number, text):
        (self.root / f"labels/{name}.txt").write_text(text + "\n")
        record = {"id": name, "path": f"{number}.png", "caption": SENTENCE,
                  "tags": self.tags[name], "attributes": {"trigger": "tok"}}  # fmt: skip
        with open(self.root / "labels/manifest.jsonl", "a") as manifest:
            manifest.write(json.dumps(record) + "\n")

    def data(self, shards="shards", **options):
        usual = {"resolution": 64, "bucket_step": 8, "batch_size": 2, "workers": 0, "held_out": 0.1}
        return ShardDataModule(
            str(self.root / "raw"), str(self.root / "labels"), shards=str(self.root / shards),
            **usual | options,
        )  # fmt: skip

    def prepared(self, **options):
        data = self.data(**options)
        data.summary = self.prepare(data)
        return data

    def prepare(self, data):
        return prepare(self.encoder, data.settings, data.pictures, data.labels, data.shards)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture
def kit():
    """What stands in this file, for tests, which cannot import it."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    return write_prepared_folder(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def make_data(prepared):
    made = []

    def make(**options):
        made.append(ShardDataModule(**({"shards": str(prepared)} | SETTINGS | options)))
        return made[-1]

    yield make
    for data in made:
        data.teardown("test")
