"""Captions in training: from labels through `elf prepare` to the batches of a run."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from elf.datamodules.shards import ShardDataModule
from elf.errors import ElfError
from elf.preparation.captions import split
from elf.preparation.prepare import prepare
from elf.preparation.prepared import read_prepared
from elf.preparation.sets import PictureSet
from elf.preparation.shards import read_index
from elf.preparation.trigger import has_trigger

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated"  # lightning 2.6.6, torch 2.14
)
ALL = {"caption": "both", "shuffle_tags": True, "keep_tags": 1, "tag_dropout": 0.3,
       "caption_dropout": 0.2, "trigger": "tok", "prior_preservation": 0.3,
       "caption_variants": 5}  # fmt: skip


def samples(loader, epochs=1):
    """Each sample as (id, seed, caption, preserved, text or None, pooled or None)."""
    for _ in range(epochs):
        for batch in loader:
            nothing = [None] * len(batch["id"])
            yield from zip(
                batch["id"], batch["seed"].tolist(), batch["caption"], batch["preserved"].tolist(),
                batch.get("text", nothing), batch.get("pooled", nothing), strict=True,
            )  # fmt: skip


def captions(loader, epochs=1):
    return {(name, seed): caption for name, seed, caption, *_ in samples(loader, epochs)}


# --- what is in a batch -------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_each_sample_has_the_states_of_the_caption_it_names(project, workers):
    data = project.prepared(**ALL, workers=workers)
    for loader in (data.train_dataloader(), data.val_dataloader()[0]):
        for _, _, caption, _, text, pooled in samples(loader):
            assert text.flatten().tolist() == project.digest(caption, 12)
            assert pooled.tolist() == project.digest(caption[::-1], 5)
            assert text.dtype == pooled.dtype == torch.float32
    data.teardown("test")


def test_a_model_without_pooled_states_gives_none(project):
    project.encoder.encode_captions = lambda captions: {
        "text": torch.tensor([project.digest(caption, 4) for caption in captions]).view(-1, 1, 4)
    }
    batch = next(iter(project.prepared().train_dataloader()))
    assert "pooled" not in batch and batch["text"].shape == (2, 1, 4)


def test_tags_are_shuffled_and_dropped_and_the_rest_stays_where_it_is(project):
    data = project.prepared(**ALL)
    seen, lengths = {}, []
    for name, _, caption, preserved, *_ in samples(data.train_dataloader(), 40):
        if not caption:
            continue
        tags = project.tags[name]
        assert caption.endswith(f", {project.sentence}")
        drawn = split(caption.removesuffix(project.sentence))
        assert ("tok" in drawn) is not preserved
        drawn = drawn[0 if preserved else 1 :]
        assert drawn[0] == tags[1] and set(drawn[1:]) <= set(tags[2:])
        seen.setdefault((name, preserved), set()).add(drawn)
        lengths.append((len(drawn) - 1) / (len(tags) - 2))
    assert max(map(len, seen.values())) == 5 >= min(map(len, seen.values())) > 1
    assert abs(np.mean(lengths) - 0.7) < 0.08  # few texts, drawn again and again


def test_each_cached_caption_is_drawn_about_as_often_as_the_others(project):
    data = project.prepared(shuffle_tags=True, caption_variants=4, trigger="tok")
    counts = {}
    for name, _, caption, *_ in samples(data.train_dataloader(), 200):
        if len(project.tags[name]) == 7:
            one = counts.setdefault(name, {})
            one[caption] = one.get(caption, 0) + 1
    for one in counts.values():
        assert len(one) == 4 and max(abs(count - 50) for count in one.values()) < 30


def test_live_captions_vary_without_limit_and_nothing_is_encoded(project):
    data = project.prepared(**{**ALL, "caption_variants": None}, text_states="live")
    assert data.text_mode == "live" and project.encoder.captions == []
    assert not list((project.root / "shards").glob("captions-*"))
    batch = next(iter(data.train_dataloader()))
    assert "text" not in batch and "pooled" not in batch and len(batch["caption"]) == 2
    texts = {}
    for name, _, caption, *_ in samples(data.train_dataloader(), 60):
        texts.setdefault(name, set()).add(caption)
    assert max(map(len, texts.values())) > 30
    found = read_prepared(project.root / "shards")
    assert (found.text_states, found.fingerprints) == ("live", {"vae": "v"})


def test_the_trigger_of_a_label_stays_in_front_though_the_config_does_not_name_it(project):
    for options in ({}, {"text_states": "live"}):
        data = project.prepared(shuffle_tags=True, tag_dropout=1.0, **options)
        assert set(captions(data.train_dataloader()).values()) == {"tok"}


def test_tags_or_the_sentence_is_drawn_by_the_asked_share(project):
    for share in (0.0, 0.25, 1.0):
        data = project.prepared(caption="either", sentence_share=share, trigger="tok",
                                shuffle_tags=True)  # fmt: skip
        drawn = [caption for _, _, caption, *_ in samples(data.train_dataloader(), 40)]
        sentences = [caption == f"tok, {project.sentence}" for caption in drawn]
        assert abs(np.mean(sentences) - share) < 0.06  # 520 draws: deviation 0.019
        assert all(has_trigger(caption, "tok") for caption in drawn)
    project.encoder.captions = []
    project.prepare(project.data(caption="either", trigger="tok", shuffle_tags=True))
    assert project.encoder.captions == []  # a share is only drawn
    data = project.prepared(caption="either", trigger="tok", shuffle_tags=True, tag_dropout=0.5,
                            prior_preservation=1.0)  # fmt: skip
    preserved = set(captions(data.train_dataloader(), 5).values())
    assert project.sentence in preserved and not any(has_trigger(c, "tok") for c in preserved)


def test_a_sentence_that_the_rules_wrote_into_a_label_is_not_taken_for_tags(project):
    for number, (name, tags) in enumerate(project.tags.items()):
        project.label(name, number, ", ".join([*tags, project.sentence]))
    for kind in ("tags", "both"):
        data = project.prepared(caption=kind, shuffle_tags=True, trigger="tok")
        for caption in captions(data.train_dataloader(), 3).values():
            assert caption.startswith("tok, ") and caption.endswith(f", {project.sentence}")
    data = project.prepared(caption="either", sentence_share=0.0, trigger="tok")
    assert not any(
        project.sentence in caption for caption in captions(data.train_dataloader()).values()
    )


def test_validation_takes_the_caption_as_it_stands(project):
    for options in (ALL, {**ALL, "caption": "either"}, {"tag_dropout": 1.0, "trigger": "tok"}):
        for more in ({}, {"text_states": "live", "caption_variants": None}):
            data = project.prepared(**{**options, "caption_dropout": 1.0, **more})
            end = f", {project.sentence}" if options.get("caption") == "both" else ""
            assert set(captions(data.train_dataloader()).values()) == {""}
            found = captions(data.val_dataloader()[0])
            assert found and {name: caption for (name, _), caption in found.items()} == {
                name: ", ".join(project.tags[name]) + end for name, _ in found
            }


def test_each_set_has_its_own_options(project, tmp_path):
    beside = tmp_path / "beside"
    beside.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (number, 9, 9)).save(beside / f"{number}.png")
        (beside / f"{number}.txt").write_text(f"n{number} | a, b, c | z")
    sets = [
        PictureSet(str(project.root / "raw"), labels=str(project.root / "labels")),
        PictureSet(str(beside), trigger="sty", shuffle_tags=True, keep_separator="|",
                   caption_variants=20),
    ]  # fmt: skip
    data = ShardDataModule(sets=sets, shards=str(tmp_path / "s"), resolution=64, bucket_step=8,
                           workers=0, held_out=0.0, trigger="tok")  # fmt: skip
    summary = prepare(project.encoder, data.settings, shards=data.shards)
    found = {}
    for name, _, caption, *_ in samples(data.train_dataloader(), 20):
        found.setdefault(name, set()).add(caption)
    plain = {name: {", ".join(tags)} for name, tags in project.tags.items()}
    assert plain.items() <= found.items()
    for name in found.keys() - plain.keys():
        tags = [split(caption) for caption in found[name]]
        assert {(t[0], t[1][0], t[-1]) for t in tags} == {("sty", "n", "z")}
        assert len({t[2:-1] for t in tags}) > 3 and {"".join(sorted(t[2:-1])) for t in tags} == {
            "abc"
        }
    assert "shuffle_tags True, keep_separator |, caption_variants 20" in str(summary)
    assert "captions   cached: up to 20 of each picture, " in str(summary)


# --- the same draws, whatever reads them ---------------------------------------------------------


@pytest.mark.parametrize("states", ["cached", "live"])
def test_captions_depend_on_seed_epoch_picture_and_occurrence_alone(project, states):
    options = {**ALL, "text_states": states}
    if states == "live":
        del options["caption_variants"]
    project.prepared(**options)

    def drawn(batch_size=2, workers=0, world_size=1, **more):
        found = {}
        for rank in range(world_size):
            data = project.data(batch_size=batch_size // world_size, workers=workers,
                                **options | more)  # fmt: skip
            data.trainer = type("T", (), {"world_size": world_size, "global_rank": rank,
                                          "lightning_module": None})  # fmt: skip
            found |= captions(data.train_dataloader(), 2)
            data.teardown("test")
        return found

    alone = drawn()
    assert len(set(alone.values())) > 10
    assert drawn(workers=2) == alone and drawn(world_size=2) == alone
    other = drawn(batch_size=4)  # other batches have other fills
    shared = alone.keys() & other.keys()
    assert len(shared) > 20 and {alone[key] == other[key] for key in shared} == {True}
    assert not drawn(seed=1).keys() & alone.keys()


@pytest.mark.fault(9)
@pytest.mark.parametrize("states", ["cached", "live"])
def test_a_run_stopped_at_any_step_of_two_epochs_sees_the_same_captions(
    kit, project, tmp_path, states, figures
):
    options = {**ALL, "text_states": states}
    if states == "live":
        del options["caption_variants"]
    project.prepared(**options)

    class Module(kit.TinyModule):
        def training_step(self, batch, number):
            lengths = [[float(len(caption))] for caption in batch["caption"]]
            batch = {"text": torch.tensor(lengths)[..., None], **batch}
            loss = super().training_step(batch, number)
            self.seen[-1] += (tuple(batch["caption"]),)
            return loss

    def train(folder, *callbacks, **more):
        module = Module()
        trainer = kit.make_trainer(folder, *callbacks, max_epochs=2, limit_val_batches=0)
        trainer.fit(module, datamodule=project.data(**options), weights_only=True, **more)
        return module

    whole = train(tmp_path, kit.SaveEachStep(tmp_path))
    steps = len(whole.seen)
    assert steps > 10 and len({caption for *_, row in whole.seen for caption in row}) > 10
    for step in range(1, steps):
        module = train(tmp_path, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert len(module.seen) == steps - step
        kit.assert_same_run(module, whole)
    figures(stops=steps - 1, ulp=0)


def test_what_only_changes_the_draws_is_refused_by_a_resume_and_needs_no_preparation(project):
    live = {"text_states": "live", "shuffle_tags": True, "keep_tags": 1, "caption": "either"}
    project.prepared(**live)
    state = project.data(**live).train_dataloader().state_dict()
    for change, message in (
        ({"keep_tags": 2}, r"data\.keep_tags 1, now it is 2"),
        ({"shuffle_tags": False, "keep_tags": 0}, r"data\.shuffle_tags True, now it is None"),
        ({"tag_dropout": 0.1}, r"data\.tag_dropout None, now it is 0\.1"),
        ({"sentence_share": 0.2}, r"data\.sentence_share 0\.5, now it is 0\.2"),
        ({"caption_dropout": 0.2}, r"data\.caption_dropout 0\.0, now it is 0\.2"),
    ):
        loader = project.data(**live | change).train_dataloader()
        expected = (
            rf"^this checkpoint was trained with {message}, so the run cannot be resumed: set"
        )
        with pytest.raises(ElfError, match=expected):
            loader.load_state_dict(state)
    project.data(**live).train_dataloader().load_state_dict(state)


def test_options_of_sets_are_refused_by_their_set(project):
    def data(**options):
        folders = {"pictures": str(project.root / "raw"), "labels": str(project.root / "labels")}
        return ShardDataModule(
            sets=[PictureSet(**folders, **options)], shards=str(project.root / "s"), resolution=64,
            bucket_step=8, workers=0, text_states="live",
        )  # fmt: skip

    prepare(project.encoder, data().settings, shards=project.root / "s")
    state = data(shuffle_tags=True).train_dataloader().state_dict()
    message = r"trained with data\.sets\[0\]\.shuffle_tags True, now it is None, so the run"
    with pytest.raises(ElfError, match=message):
        data().train_dataloader().load_state_dict(state)


# --- folders and checkpoints from before ---------------------------------------------------------


def test_a_checkpoint_from_before_goes_on_where_nothing_new_is_drawn(make_data, prepared):
    loader = make_data(workers=0).train_dataloader()
    assert loader.index_hash == "18019fb65d6dd41b"  # of this folder, before captions were drawn
    state = loader.state_dict()
    del state["options"]
    loader.load_state_dict({**state, "batch": 3})
    assert loader.position.batch == 3
    shuffled = make_data(workers=0, text_states="live", shuffle_tags=True)
    shuffled.prepared = read_prepared(prepared)
    message = r"trained with data\.text_states None, now it is live"
    with pytest.raises(ElfError, match=message):
        shuffled.train_dataloader().load_state_dict(state)


def test_stamps_of_pictures_are_as_before_where_nothing_is_drawn(project):
    """So that nothing is made again: their pictures, and the order of a run, stay what they are."""

    def stamps(**options):
        project.prepared(**options)
        found = {}
        for tar in (project.root / "shards").glob("train-*.tar"):
            found |= {entry.key: entry.meta for entry in read_index(tar).entries}
        return found

    known = {"stamp", "width", "height", "bucket", "resized", "crop", "caption"}
    for kind in ("tags", "both"):
        plain = stamps(caption=kind)
        assert all(meta.keys() == known for meta in plain.values())
        drawn = stamps(caption=kind, shuffle_tags=True)
        assert {meta["trigger"] for meta in drawn.values()} == {"tok"}
        assert plain == stamps(caption=kind)
        named = stamps(caption=kind, shuffle_tags=True, trigger="tok")
        assert all("trigger" not in meta for meta in named.values())
        assert (named == plain) is (kind == "tags")
        assert all(meta.get("sentence") == (project.sentence if kind == "both" else None)
                   for meta in named.values())  # fmt: skip


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"keep_tags": 2}, r"data\.keep_tags=1, this config says 2"),
        ({"tag_dropout": 0.5}, r"data\.tag_dropout=0\.3, this config says 0\.5"),
        ({"caption_variants": 3}, r"data\.caption_variants=5, this config says 3"),
        ({"keep_separator": "|"}, r"data\.keep_separator=None, this config says '\|'"),
        ({"text_states": "live", "caption_variants": None},
         r"data\.text_states='cached', this config says 'live'"),
        ({"caption": "tags"}, r"data\.caption='both', this config says 'tags'"),
    ],
)  # fmt: skip
def test_a_folder_with_other_captions_is_refused_until_it_is_prepared(project, change, difference):
    project.prepared(**ALL)
    with pytest.raises(ElfError, match=rf"was prepared with {difference}: run `elf prepare"):
        project.data(**ALL | change).train_dataloader()
    data = project.prepared(**ALL | change)
    assert list(captions(data.train_dataloader()))


def test_a_caption_whose_state_is_missing_is_named(project):
    data = project.prepared(shuffle_tags=True)
    loader = data.train_dataloader()
    data.prepared.texts.clear()
    message = r"shards: no text state of 'tok, .*' is cached \(another version of elf made the cach"
    with pytest.raises(ElfError, match=message):
        next(iter(loader))


def test_another_text_encoder_matters_only_where_its_states_are_cached(kit, project, tmp_path):
    class Other(kit.TinyModule):
        def fingerprints(self):
            return {"vae": "v", "text": "another"}

    for states in ("live", "cached"):
        data = project.prepared(text_states=states)
        data.trainer = kit.make_trainer(tmp_path)
        data.trainer.strategy._lightning_module = Other()
        if states == "live":
            data.setup("fit")
        else:
            with pytest.raises(ElfError, match=r"caches were made by another text model \(t…"):
                data.setup("fit")


# --- what `elf prepare` does and says ------------------------------------------------------------


def test_each_text_is_encoded_once_and_variants_are_added_to_those_there(project):
    data = project.prepared(**ALL)
    texts = project.encoder.captions
    assert len(texts) == len(set(texts)) == data.summary.texts.cached == data.summary.captions
    assert {"", *(", ".join([*tags, project.sentence]) for tags in project.tags.values())} < set(
        texts
    )
    files = {path.name: path.read_bytes() for path in (project.root / "shards").glob("*-*")}
    project.encoder.captions = []
    project.prepare(data)
    assert project.encoder.captions == []
    again = {path.name: path.read_bytes() for path in (project.root / "shards").glob("*-*")}
    assert again == files
    project.prepared(**{**ALL, "caption_variants": 6})
    assert 0 < len(project.encoder.captions) <= 2 * len(project.tags)
    assert not set(project.encoder.captions) & set(texts)


@pytest.mark.parametrize("kind", ["text", "pooled"])
def test_a_state_beyond_half_precision_names_its_caption(project, kind):
    encode = project.encoder.encode_captions

    def overflowing(captions):
        states = encode(captions)
        states[kind] = states[kind] + 1e5 * torch.tensor(
            ["number 3" in caption for caption in captions]
        ).float().view(-1, *[1] * (states[kind].ndim - 1))
        return states

    project.encoder.encode_captions = overflowing
    with pytest.raises(ElfError, match=r"^caption '.*number 3, .*': a value of 1e\+05 does not"):
        project.prepared(trigger="tok")


def test_what_is_said_of_captions(project, capsys):
    size = 0
    for options, said in (
        ({}, r"captions   cached: 1 of each picture, 15 texts in all, \d+\.\d MB\n"),
        ({"shuffle_tags": True, "keep_tags": 1, "caption_variants": 3},
         r"up to 3 of each picture \(shuffle_tags True, keep_tags 1, caption_variants 3\), "),
        ({"text_states": "live", "tag_dropout": 0.1},
         r"captions   live: encoded in each step, none is cached \(tag_dropout 0\.1\)\n"),
        ({"caption": "either"}, r"cached: 1 of each picture \(sentence_share 0\.5\), 16 texts"),
        ({"caption": "both"}, r"\n {11}\d+ of 14 are longer than the text encoder reads: what st"),
    ):  # fmt: skip
        summary = project.prepared(**options).summary
        assert re.search(said, capsys.readouterr().out), (options, str(summary))
        size = summary.texts.size
    assert size == sum(path.stat().st_size for path in (project.root / "shards").glob("cap*.tar"))
    long = [
        tags for tags in project.tags.values() if len(", ".join([*tags, project.sentence])) > 60
    ]
    assert (summary.texts.cut, summary.texts.whole) == (len(long), 14) and 0 < len(long) < 14


def test_an_encoder_that_cannot_count_is_no_matter(project):
    project.encoder.count_cut = None
    assert project.prepared().summary.texts.cut is None


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [
        (75, "(it reads 75 tokens: set model.caption_tokens to 150 or 225, or leave it at that)"),
        (150, "(it reads 150 tokens: set model.caption_tokens to 225, or leave it at that)"),
        (225, "(it reads 225 tokens: shorten them, or leave it at that)"),
    ],
)
def test_the_way_out_of_captions_that_are_cut_is_said(project, capsys, limit, remedy):
    project.encoder.caption_tokens = limit
    project.prepared(caption="both")
    assert remedy in capsys.readouterr().out
    project.encoder.count_cut = lambda captions: 0
    project.prepared(caption="both")
    assert "it reads" not in capsys.readouterr().out
