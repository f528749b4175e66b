"""Several sets of pictures: from their folders through `elf prepare` to training batches."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

from elf.configuration.config_errors import explain, known_names
from elf.datamodules.shards import ShardDataModule
from elf.errors import ElfError
from elf.images import picture_id
from elf.preparation.prepare import prepare
from elf.preparation.sets import PictureSet, fill_in, times_an_epoch

FACTOR = 8


class Means:
    """An encoder whose latents are the means of 8 × 8 pixels, and whose texts are lengths."""

    latent_factor = FACTOR

    def __init__(self):
        self.pictures = 0

    def encode_pictures(self, pixels):
        self.pictures += len(pixels)
        mean = torch.nn.functional.avg_pool2d(pixels, FACTOR)
        return mean, mean.abs() / 100

    def encode_captions(self, captions):
        states = [[[float(len(caption))] * 4] * 3 for caption in captions]
        return {"text": torch.tensor(states)}

    def fingerprints(self):
        return {"vae": "v", "text": "t"}


def draw(number, size=(64, 64)):
    """A picture, brighter to the left."""
    noise = np.random.default_rng(number).integers(0, 60, (*size[::-1], 3))
    slope = np.linspace(180, 0, size[0])[None, :, None]
    return Image.fromarray((noise + slope).astype(np.uint8))


def fill(folder, numbers, caption="a man", size=(64, 64)):
    """Put pictures into a folder, with captions beside them; return their ids."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number in numbers:
        path = folder / f"{number}.png"
        draw(number, size).save(path)
        if caption:
            path.with_suffix(".txt").write_text(f"{caption}, {number % 3}\n")
        names.append(picture_id(path.read_bytes()))
    return names


def label(folder, labels, text="tok, elf"):
    """Label the pictures of a folder as `elf predict` does."""
    labels.mkdir(parents=True, exist_ok=True)
    with open(labels / "manifest.jsonl", "w") as manifest:
        for path in sorted(folder.glob("*.png")):
            name = picture_id(path.read_bytes())
            record = {"id": name, "path": path.name, "caption": "A sentence.", "tags": [text]}
            manifest.write(json.dumps(record) + "\n")
            (labels / f"{name}.txt").write_text(text + "\n")


class World:
    """Folders of pictures to be learnt (`elf`, labelled), of styles, and of class pictures."""

    def __init__(self, root):
        self.root = root
        self.elf = fill(root / "elf", range(6), "", (64, 64))
        self.style = fill(root / "style", range(10, 14), "painted", (80, 48))
        self.man = fill(root / "man", range(20, 23), "a man", (64, 64))
        label(root / "elf", root / "labels")
        self.encoder = Means()

    def sets(self, elf=None, style=None, man=None):
        return [
            PictureSet(
                pictures=str(self.root / "elf"), labels=str(self.root / "labels"),
                **{"trigger": "tok", "repeats": 3, "flip": True} | (elf or {}),
            ),
            PictureSet(pictures=str(self.root / "style"), **{"trigger": "sty"} | (style or {})),
            PictureSet(
                pictures=str(self.root / "man"),
                **{"regularisation": True, "weight": 0.5} | (man or {}),
            ),
        ]  # fmt: skip

    def data(self, sets=None, **options):
        settings = {
            "resolution": 64, "bucket_step": 8, "batch_size": 2, "workers": 0, "held_out": 0.0,
        } | options  # fmt: skip
        sets = self.sets() if sets is None else sets
        return ShardDataModule(sets=sets, shards=str(self.root / "shards"), **settings)

    def prepare(self, data, **options):
        return prepare(self.encoder, data.settings, shards=data.shards, **options)

    def prepared(self, sets=None, **options):
        data = self.data(sets, **options)
        self.prepare(data)
        return data


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def samples(loader):
    """Each sample of an epoch as (id, seed, its part of the batch)."""
    for batch in loader:
        for row, (name, seed) in enumerate(zip(batch["id"], batch["seed"].tolist(), strict=True)):
            yield name, seed, {key: value[row] for key, value in batch.items()}


# --- what is in an epoch ----------------------------------------------------------------------


def test_each_picture_stands_as_often_as_its_set_says(world):
    data = world.prepared()
    count, seeds = {}, set()
    for name, seed, _ in samples(data.train_dataloader()):
        count[name] = count.get(name, 0) + 1
        seeds.add(seed)
    assert len(seeds) == sum(count.values()), "each time with a seed of its own"
    # 18 samples of elves and 4 of style; as many of class pictures, which are three; all even
    assert [count[name] for name in world.elf] == [3] * 6
    assert [count[name] for name in world.style] == [1] * 4
    assert sorted(count[name] for name in world.man) == [7, 7, 8]


def test_a_batch_says_which_are_class_pictures_and_what_they_weigh(world):
    data = world.prepared(world.sets(style={"weight": 2.0}))
    for name, _, sample in samples(data.train_dataloader()):
        assert sample["regularisation"].item() == (name in world.man)
        weight = 0.5 if name in world.man else 2.0 if name in world.style else 1.0
        assert sample["loss_weight"].item() == weight
        assert sample["loss_weight"].dtype == torch.float32


def test_captions_have_their_sets_trigger(world):
    data = world.prepared()
    texts = {}
    for name, _, sample in samples(data.train_dataloader()):
        texts[name] = sample["text"].mean().item()
    assert {texts[name] for name in world.elf} == {len("tok, elf")}
    assert {texts[name] for name in world.style} == {len("sty, painted, 0")}
    assert {texts[name] for name in world.man} == {len("a man, 0")}


def test_only_what_has_a_trigger_keeps_what_the_base_predicts(world):
    data = world.prepared(prior_preservation=0.6)
    kept = {}
    for name, _, sample in samples(data.train_dataloader()):
        if sample["preserved"]:
            kept[name] = sample["text"].mean().item()
    assert kept and not kept.keys() & set(world.man)
    assert {kept.get(name, 3) for name in world.elf} == {len("elf")}


def test_each_set_has_its_caption_dropout(world):
    sets = world.sets(style={"caption_dropout": 1.0}, man={"caption_dropout": 0.0})
    data = world.prepared(sets, caption_dropout=0.5)
    empty = {"elf": [], "style": [], "man": []}
    loader = data.train_dataloader()
    for _ in range(20):
        for name, _, sample in samples(loader):
            kind = next(kind for kind in empty if name in getattr(world, kind))
            empty[kind].append(not sample["text"].any())
    assert np.mean(empty["style"]) == 1 and np.mean(empty["man"]) == 0
    assert abs(np.mean(empty["elf"]) - 0.5) < 0.1  # 360 draws: deviation 0.026


def test_class_pictures_and_flips_are_not_validated(world):
    data = world.prepared(held_out=0.5)
    held = {name for batch in data.val_dataloader()[0] for name in batch["id"]}
    assert held and not held & set(world.man)
    for batch in data.val_dataloader()[0]:
        assert not batch["regularisation"].any()
        slopes = batch["latent_mean"][..., 0] - batch["latent_mean"][..., -1]
        assert (slopes.mean((1, 2)) > 0).all(), "brighter to the left, as they are"


def test_more_class_pictures_than_are_wanted_are_not_all_used(world):
    fill(world.root / "man", range(30, 60), "a man")
    data = world.data(world.sets(elf={"repeats": 1}))
    summary = world.prepare(data)
    names = [name for name, _, sample in samples(data.train_dataloader())
             if sample["regularisation"]]  # fmt: skip
    assert len(names) == len(set(names)) == 10
    assert summary.sets[2].pictures == 33 and summary.sets[2].unused == 23
    assert "33 pictures, 10 samples an epoch, 23 not used, crop loss 0.0%" in str(summary)


# --- flips ------------------------------------------------------------------------------------


def test_half_of_a_flipped_sets_samples_are_the_latents_of_mirrored_pictures(world):
    data = world.prepared()
    expected = {}
    for folder, numbers in (("elf", range(6)), ("style", range(10, 14)), ("man", range(20, 23))):
        for number in numbers:
            path = world.root / folder / f"{number}.png"
            pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1).float()
            expected[picture_id(path.read_bytes())] = [
                world.encoder.encode_pictures(p[None] / 127.5 - 1)[0][0]
                for p in (pixels, pixels.flip(2))
            ]
    loader, flipped = data.train_dataloader(), {"elf": [], "other": []}
    for _ in range(10):
        for name, _, sample in samples(loader):
            if sample["latent_mean"].shape[-2:] != expected[name][0].shape[-2:]:
                continue  # a style picture, resized to its bucket
            error = [(sample["latent_mean"] - e).abs().max().item() for e in expected[name]]
            assert min(error) < 1e-3 < max(error)
            flipped["elf" if name in world.elf else "other"].append(error[1] < error[0])
    assert abs(np.mean(flipped["elf"]) - 0.5) < 0.15  # 180 draws: deviation 0.037
    assert not any(flipped["other"])


def test_flips_depend_on_seed_epoch_picture_and_occurrence_alone(world):
    data = world.prepared()

    def flips(batch_size=2, workers=0, world_size=1):
        found = {}
        for rank in range(world_size):
            data = world.data(batch_size=batch_size // world_size, workers=workers)
            data.trainer = type("T", (), {"world_size": world_size, "global_rank": rank,
                                          "lightning_module": None})  # fmt: skip
            for name, seed, sample in samples(data.train_dataloader()):
                slope = sample["latent_mean"][..., 0] - sample["latent_mean"][..., -1]
                found[name, seed] = bool(slope.mean() < 0)
            data.teardown("test")
        return found

    assert data.settings.sets[0].flip
    alone = flips()
    assert any(alone.values()) and not all(alone.values())
    assert flips(workers=2) == alone and flips(world_size=2) == alone
    # other batches have other fills, but what is in both is mirrored or not in both
    other = flips(batch_size=4)
    shared = alone.keys() & other.keys()
    assert len(shared) > 30 and {alone[key] == other[key] for key in shared} == {True}


def test_the_crop_of_a_mirrored_picture_is_counted_from_its_own_left(tmp_path):
    folder = tmp_path / "wide"
    fill(folder, range(4), "x", (97, 64))
    sets = [PictureSet(pictures=str(folder), flip=True)]
    settings = {"resolution": 64, "bucket_step": 8, "min_side": 64, "max_side": 64, "workers": 0}
    data = ShardDataModule(sets=sets, shards=str(tmp_path / "s"), held_out=0, **settings)
    prepare(Means(), data.settings, shards=data.shards)
    loader, crops = data.train_dataloader(), set()
    for _ in range(5):
        for _, _, sample in samples(loader):
            slope = sample["latent_mean"][..., 0] - sample["latent_mean"][..., -1]
            crops.add((bool(slope.mean() < 0), *sample["crop"].tolist()))
    assert crops == {(False, 0, 16), (True, 0, 17)}  # 97 px: 16 to the left, 17 to the right


# --- what a changed configuration means -------------------------------------------------------


def index_hash(world, sets, **options):
    return world.data(sets, **options).train_dataloader().index_hash


def test_repeats_and_weights_may_change_without_preparing_but_not_within_a_run(world):
    data = world.prepared()
    loader = data.train_dataloader()
    assert index_hash(world, world.sets()) == loader.index_hash
    for change in (
        {"elf": {"repeats": 4}},
        {"style": {"weight": 2.0}},
        {"man": {"weight": 1.0}},
        {"man": {"repeats": 2}},
        {"style": {"caption_dropout": 0.1}},
    ):
        other = world.data(world.sets(**change)).train_dataloader()
        assert other.index_hash != loader.index_hash
        with pytest.raises(ElfError, match=r"checkpoint was trained with prepared data .*, so"):
            other.load_state_dict(loader.state_dict())


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"elf": {"flip": False}}, r"data\.sets\[0\]\.flip=True, this config says False"),
        ({"style": {"trigger": None}}, r"data\.sets\[1\]\.trigger='sty', this config says None"),
        (
            {"man": {"regularisation": False}},
            r"data\.sets\[2\]\.regularisation=True, this config says False",
        ),
        ({"elf": {"caption": "both"}}, r"data\.sets\[0\]\.caption='tags', this config says 'both'"),
    ],
)
def test_what_needs_other_shards_is_refused_until_they_are_prepared(world, change, difference):
    world.prepared()
    with pytest.raises(ElfError, match=rf"was prepared with {difference}: run `elf prepare"):
        world.data(world.sets(**change)).train_dataloader()


def test_another_number_of_sets_is_refused(world):
    world.prepared()
    with pytest.raises(ElfError, match=r"data\.sets='3 sets', this config says '2 sets'"):
        world.data(world.sets()[:2]).train_dataloader()


def test_one_set_is_what_the_plain_keys_say(world):
    shards = world.root / "plain"
    folders = str(world.root / "elf"), str(world.root / "labels")
    options = {"resolution": 64, "bucket_step": 8, "trigger": "tok", "workers": 0}
    plain = ShardDataModule(*folders, shards=str(shards), **options)
    prepare(world.encoder, plain.settings, *folders, shards)
    one = PictureSet(folders[0], labels=folders[1])
    data = world.prepared([one], held_out=0.05, trigger="tok")
    for path in sorted(shards.glob("*-*")):
        assert path.read_bytes() == (world.root / "shards" / path.name).read_bytes()
    assert data.train_dataloader().index_hash == plain.train_dataloader().index_hash


def test_a_set_that_is_added_leaves_the_latents_of_the_others(world):
    world.prepared(world.sets()[:2])
    world.encoder.pictures = 0
    world.prepared(world.sets())
    assert world.encoder.pictures == len(world.man)


def test_flips_are_encoded_once_and_removed_when_they_are_not_wanted(world):
    world.prepared()
    assert world.encoder.pictures == 13 + 6
    world.prepared()
    assert world.encoder.pictures == 13 + 6
    world.prepared(world.sets(elf={"flip": False}))
    assert world.encoder.pictures == 13 + 6
    assert not list((world.root / "shards").glob("flipped-*"))


@pytest.mark.parametrize("workers", [1, 4])
def test_shards_do_not_depend_on_the_number_of_workers(world, workers):
    clean = world.prepared()
    before = {p.name: p.read_bytes() for p in (world.root / "shards").glob("[!.]*")}
    data = ShardDataModule(sets=world.sets(), shards=str(world.root / "other"), resolution=64,
                           bucket_step=8, held_out=0.0)  # fmt: skip
    assert data.settings == clean.settings
    world.prepare(data, workers=workers)
    assert {p.name: p.read_bytes() for p in (world.root / "other").glob("[!.]*")} == before


# --- what goes wrong --------------------------------------------------------------------------


def test_a_picture_in_two_sets_is_an_error_with_both_names(world):
    (world.root / "man" / "copy.png").write_bytes((world.root / "elf" / "3.png").read_bytes())
    (world.root / "man" / "copy.txt").write_text("a man")
    message = (
        r"^data\.sets\[0\] and data\.sets\[2\] hold the same picture, 3\.png and copy\.png: take "
        r"it out of one of them; `repeats` makes a set count more$"
    )
    with pytest.raises(ElfError, match=message):
        world.prepared()
    (world.root / "man" / "too.png").write_bytes((world.root / "elf" / "4.png").read_bytes())
    (world.root / "man" / "too.txt").write_text("a man")
    with pytest.raises(ElfError, match=r"\(and 1 more\): take"):
        world.prepared()


def test_what_is_dropped_is_said_with_its_set(world, capsys):
    (world.root / "style" / "10.txt").unlink()
    (world.root / "style" / "11.txt").write_bytes(b"caf\xe9")
    (world.root / "man" / "twin.png").write_bytes((world.root / "man" / "20.png").read_bytes())
    (world.root / "man" / "twin.txt").write_text("again")
    (world.root / "man" / "bad.png").write_bytes(b"no picture")
    (world.root / "man" / "bad.txt").write_text("bad")
    summary = world.prepare(world.data())
    assert {(d.set, d.path, d.reason.split(" (")[0]) for d in summary.dropped} == {
        (1, "10.png", "no caption beside it"),
        (1, "11.png", "its caption 11.txt is not UTF-8"),
        (2, "twin.png", "the same picture twice"),
        (2, "bad.png", "not a picture of a known format"),
    }
    assert "1 × no caption beside it (set 1)" in capsys.readouterr().out


def test_a_default_caption_stands_in_for_a_missing_one(world):
    (world.root / "man" / "20.txt").unlink()
    (world.root / "man" / "21.txt").rename(world.root / "man" / "21.caption")
    data = world.prepared(world.sets(man={"default_caption": " a  person "}))
    lengths = {name: sample["text"].mean().item()
               for name, _, sample in samples(data.train_dataloader())}  # fmt: skip
    assert [lengths[name] for name in world.man] == [8, 8, 8]
    assert len("a person") == len("a man, 0") == 8


def test_a_folder_that_is_missing_or_empty_is_named(world):
    missing = (
        r"^data\.sets\[0\]\.pictures: no folder none; give one that is there, or drop the set$"
    )
    with pytest.raises(ElfError, match=missing):
        world.prepared([PictureSet("none")])
    (world.root / "empty").mkdir()
    with pytest.raises(
        ElfError, match=r"^data\.sets\[0\]\.pictures: no pictures in .*empty; put some"
    ):
        world.prepared([PictureSet(str(world.root / "empty"))])


def test_a_trigger_that_no_label_holds_is_refused_with_its_set(world):
    message = r"data\.sets\[0\]\.trigger: no caption holds 'tock' \(one is 'tok, elf'\)"
    with pytest.raises(ElfError, match=message):
        world.prepared(world.sets(elf={"trigger": "tock"}))


def test_class_pictures_alone_are_nothing_to_learn(world):
    for path in [*(world.root / "elf").iterdir(), *(world.root / "style").glob("*.png")]:
        path.write_bytes(b"spoilt")
    fill(world.root / "style", range(10, 14), "", (80, 48))
    for path in (world.root / "style").glob("*.txt"):
        path.unlink()
    with pytest.raises(ElfError, match=r"^no picture is left to train on but regularisation or un"):
        world.prepared()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r": give pictures \(a folder\) or tars, one of the two$"),
        ({"pictures": "a", "tars": "b"}, r": give pictures \(a folder\) or tars, one of the two$"),
        ({"repeats": 0}, r"\.repeats 0 is too small: at least 1$"),
        ({"caption_dropout": 2.0}, r"\.caption_dropout 2\.0 is a share: give a number from 0 to 1"),
        ({"weight": 0.0}, r"\.weight 0\.0 is no factor of a loss: give a number above 0$"),
        ({"weight": float("nan")}, r"\.weight nan is no factor of a loss"),
        (
            {"regularisation": True, "trigger": "x"},
            r"\.trigger 'x': class pictures have none; leave it out$",
        ),
        ({"trigger": " "}, r"\.trigger ' ' is blank: give a word, or \"\" for none$"),
        ({"caption": "both"}, r"\.caption 'both' chooses among labels: give labels, or leave it"),
        (
            {"labels": "l", "default_caption": "x"},
            r"\.default_caption is for pictures without labels: leave one of the two out$",
        ),
        ({"default_caption": " "}, r"\.default_caption is empty: give a caption, or leave it out"),
        (
            {"pictures": None, "tars": "b", "masks": "m"},
            r"\.masks: masks of tars stand in them as name\.mask\.png; leave the folder out$",
        ),
        ({"masks": "m", "alpha_mask": True}, r"\.masks and alpha_mask: give one of the two$"),
    ],
)
def test_a_set_that_makes_no_sense_is_refused_by_its_key(options, message):
    options = {"pictures": "a"} | options if options else {}
    with pytest.raises(ElfError, match=rf"^data\.sets\[1\]{message}"):
        fill_in([PictureSet("ok"), PictureSet(**options)], "tags", None, 0.0)


def test_sets_take_from_data_what_they_leave_out():
    sets = [
        PictureSet("a", labels="l"),
        PictureSet("b", trigger="", caption_dropout=0.0),
        PictureSet("c", regularisation=True),
    ]
    filled = fill_in(sets, "both", "tok", 0.1)
    assert [each.trigger for each in filled] == ["tok", None, None]
    assert [each.caption for each in filled] == ["both", None, None]
    assert [each.caption_dropout for each in filled] == [0.1, 0.0, 0.1]


def test_all_sets_of_class_pictures_are_refused():
    with pytest.raises(ElfError, match=r"^data\.sets: all are regularisation sets; add the pict"):
        fill_in([PictureSet("a", regularisation=True)], "tags", None, 0.0)


@pytest.mark.parametrize("key", ["pictures", "labels"])
def test_a_plain_key_beside_sets_is_refused(key):
    with pytest.raises(ElfError, match=rf"^data\.{key} mine is not used with data\.sets: name it"):
        ShardDataModule(sets=[PictureSet("a")], **{key: "mine"})


def test_prior_preservation_needs_a_trigger_in_some_set():
    with pytest.raises(ElfError, match=r"takes the trigger out of captions: set data\.trigger$"):
        ShardDataModule(sets=[PictureSet("a")], prior_preservation=0.3)
    ShardDataModule(sets=[PictureSet("a", trigger="x")], prior_preservation=0.3)
    sets = [PictureSet("b", regularisation=True), PictureSet("a", trigger="")]
    message = (
        r"^data\.prior_preservation takes the trigger out of captions, but data\.sets\[1\]\."
        r"trigger is empty: give a word there, or leave it out and set data\.trigger$"
    )
    for trigger in ("x", None):
        with pytest.raises(ElfError, match=message):
            ShardDataModule(sets=sets, trigger=trigger, prior_preservation=0.3)
    ShardDataModule(sets=sets, trigger="x")


def test_times_an_epoch_are_those_of_the_sets():
    sets = [PictureSet("a", repeats=2), PictureSet("b"), PictureSet("c", regularisation=True)]
    assert times_an_epoch(sets, [0, 0, 1, 2, 2]).tolist() == [2, 2, 1, 3, 2]


# --- YAML and the command line ----------------------------------------------------------------


def parse(text, tmp_path, *arguments):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(ShardDataModule, "data")
    path = tmp_path / "c.yaml"
    path.write_text(text)
    try:
        config = parser.parse_args(["--config", str(path), *arguments])
    except Exception as error:
        return explain(str(error), [str(path)], known_names([ShardDataModule]))
    return parser.instantiate(config).data


YAML = """
data:
  trigger: tok
  sets:
    - pictures: data/raw
      labels: data/labels
      repeats: 10
    - tars: [a/*.tar, b.tar]
      regularisation: true
      weight: 0.5
"""


def test_sets_are_read_from_yaml_and_the_command_line(tmp_path):
    first, second = parse(YAML, tmp_path).settings.sets
    assert (first.pictures, first.labels, first.repeats) == ("data/raw", "data/labels", 10)
    assert (second.tars, second.regularisation, second.weight) == (["a/*.tar", "b.tar"], True, 0.5)
    more = parse(YAML, tmp_path, '--data.sets+={"pictures": "c", "flip": true}').settings.sets
    assert len(more) == 3 and more[2].flip
    only = parse(YAML, tmp_path, '--data.sets=[{"pictures": "c", "repeats": 2}]').settings.sets
    assert [each.repeats for each in only] == [2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "repeats",
            "repeat",
            r"unknown key 'data\.sets\.repeat' in .*, line 7; did you mean 'repe",
        ),
        (
            "repeats: 10",
            "repeats: ten",
            r"data\.sets\.repeats: expected int, got ten in .*, line 7",
        ),
        ("    - pictures: data/raw\n      ", "      ", r"data\.sets: expected list, got .*labels"),
    ],
)
def test_a_mistake_in_a_set_is_one_line_with_the_key(tmp_path, old, new, message):
    import re

    text = YAML if old[0] != " " else YAML.split("    - tars")[0]
    said = parse(text.replace(old, new, 1), tmp_path)
    assert isinstance(said, str) and re.match(message, said), said
    assert "\n" not in said


def test_reading_many_pictures_keeps_their_order(world):
    from elf.preparation.captioned import read_captioned

    with ThreadPoolExecutor(4) as threads:
        found, dropped = read_captioned(world.sets()[1], 1, threads)
    assert [source.id for source in found] == sorted(world.style) and not dropped
