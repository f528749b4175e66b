"""Masks go where their pictures go: through buckets, crops and flips, into the batch."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from elf.datamodules.shards import ShardDataModule
from elf.errors import ElfError
from elf.images import picture_id, picture_names, split_masks
from elf.preparation.caches import Cached, pack_mask
from elf.preparation.prepare import prepare
from elf.preparation.prepared import read_prepared
from elf.preparation.sets import PictureSet
from elf.preparation.shards import Reader, read_index
from elf.rename import rename, undo


class Means:
    """An encoder whose latents are the means of 8 × 8 pixels."""

    latent_factor = 8

    def __init__(self):
        self.pictures = 0

    def encode_pictures(self, pixels):
        self.pictures += len(pixels)
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return mean, mean.abs() / 100

    def encode_captions(self, captions):
        states = [[[float(len(caption))] * 4] * 3 for caption in captions]
        return {"text": torch.tensor(states)}

    def fingerprints(self):
        return {"vae": "v", "text": "t"}


def png(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def bright_square(seed, size):
    """A black picture with a white rectangle somewhere, off the centre."""
    draw = np.random.default_rng(seed)
    image = Image.new("RGB", size)
    corners = [sorted(draw.uniform(0, side, 2)) for side in size]
    (left, right), (top, bottom) = corners
    box = (int(left), int(top), int(right) + 1 + size[0] // 8, int(bottom) + 1 + size[1] // 8)
    image.paste("white", box)
    return image


class Project:
    """A folder of pictures with captions and masks beside them."""

    def __init__(self, root):
        self.root = root / "raw"
        self.root.mkdir(parents=True)
        self.shards = root / "shards"
        self.encoder = Means()

    def add(self, name, image, mask=None, **options):
        data = image if isinstance(image, bytes) else png(image, **options)
        path = self.root / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        path.with_suffix(".txt").write_text("a cat")
        if mask is not None:
            mask_data = mask if isinstance(mask, bytes) else png(mask)
            path.with_name(f"{path.stem}.mask.png").write_bytes(mask_data)
        return picture_id(data)

    def data(self, settings=None, **options):
        settings = {"resolution": 64, "bucket_step": 8, "held_out": 0.0, "batch_size": 2,
                    "workers": 0} | (settings or {})  # fmt: skip
        options = {"pictures": str(self.root)} | options
        return ShardDataModule(sets=[PictureSet(**options)], shards=str(self.shards), **settings)

    def prepare(self, settings=None, **options):
        data = self.data(settings, **options)
        return prepare(self.encoder, data.settings, shards=self.shards), data

    def masks(self):
        reader, found = Reader(self.shards), {}
        for tar in self.shards.glob("masks-*.tar"):
            index = read_index(tar)
            for entry in index.entries:
                found[entry.key] = Cached.of(index, entry, "mask.npy").read_mask(reader)
        return found


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def samples(data, epochs=1):
    loader = data.train_dataloader()
    for _ in range(epochs):
        for batch in loader:
            for row, name in enumerate(batch["id"]):
                yield name, {key: value[row] for key, value in batch.items()}


# --- geometry ---------------------------------------------------------------------------------


@pytest.mark.parametrize("no_upscale", [False, True])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_mask_made_of_the_picture_covers_its_latents_after_any_crop_and_flip(
    project, no_upscale, alpha
):
    draw = np.random.default_rng(5)
    for number in range(40):
        size = tuple(int(side) for side in draw.integers(20, 260, 2))
        square = bright_square(number, size).convert("L")
        if alpha:  # black where it is opaque; what is transparent is laid over white
            image = Image.merge("LA", [Image.new("L", size), square])
            project.add(f"{number}", image)
        else:
            project.add(f"{number}", square.convert("RGB"), square)
    summary, data = project.prepare({"no_upscale": no_upscale}, flip=True, alpha_mask=alpha)
    assert summary.crop_loss > 0.02 and not summary.dropped
    seen = set()
    for name, sample in samples(data, epochs=6):
        brightness = (sample["latent_mean"].mean(0) + 1) / 2
        assert sample["mask"].shape == brightness.shape
        assert (sample["mask"] - (1 - brightness if alpha else brightness)).abs().max() < 0.12
        seen.add((name, tuple(sample["mask"].flatten().tolist())))
    names = [name for name, _ in seen]
    mirrored = {name for name in names if names.count(name) == 2}
    assert len(mirrored) > 30, "both ways round were seen"


def test_the_crop_of_a_mask_is_that_of_its_picture(project):
    mask = Image.new("L", (256, 64))
    mask.paste(255, (96, 0, 160, 32))  # the upper half of the middle square
    name = project.add("wide", Image.new("RGB", (256, 64)), mask)
    project.prepare({"min_side": 64, "max_side": 64})
    assert (project.masks()[name] == [[255] * 8] * 4 + [[0] * 8] * 4).all()


def test_a_latents_value_is_the_mean_of_its_pixels(project):
    values = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    name = project.add("a", Image.new("RGB", (64, 64)), Image.fromarray(values))
    _, data = project.prepare()
    means = values.reshape(8, 8, 8, 8).mean((1, 3))
    assert np.abs(project.masks()[name] - means).max() <= 1
    (sample,) = [sample for _, sample in samples(data)][:1]
    assert sample["mask"].dtype == torch.float32 and sample["mask"].shape == (8, 8)
    np.testing.assert_allclose(sample["mask"], means / 255, atol=1 / 255)


def test_a_picture_turned_by_its_exif_data_has_an_upright_mask(project):
    mask = Image.new("L", (64, 96))
    mask.paste(255, (0, 0, 64, 48))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (96, 64)).save(buffer, "JPEG", exif=exif)
    name = project.add("turned", buffer.getvalue(), mask)
    summary, _ = project.prepare()
    assert not summary.dropped
    small = project.masks()[name]
    assert small.shape[0] > small.shape[1]
    assert (small[: len(small) // 2 - 1] == 255).all() and not small[len(small) // 2 + 1 :].any()


# --- where masks are ---------------------------------------------------------------------------


def white(size=(64, 64), value=255):
    return Image.new("L", size, value)


def flat(number, size=(64, 64)):
    return Image.new("RGB", size, (number, number, number))


def test_pictures_without_a_mask_count_in_full_beside_others(project):
    plain, masked = project.add("a", flat(1)), project.add("b", flat(2), white(value=51))
    _, data = project.prepare()
    means = {name: sample["mask"].mean().item() for name, sample in samples(data)}
    assert means == {plain: 1.0, masked: pytest.approx(0.2)}


def test_without_any_mask_batches_hold_none(project):
    project.add("a", flat(1))
    _, data = project.prepare()
    assert all("mask" not in sample for _, sample in samples(data))
    assert not list(project.shards.glob("masks-*"))


def test_held_out_pictures_have_their_masks(project):
    for number in range(8):
        project.add(str(number), flat(number), white(value=51))
    _, data = project.prepare({"held_out": 0.3})
    masks = [mask for batch in data.val_dataloader()[0] for mask in batch["mask"]]
    assert masks and all(mask.mean().item() == pytest.approx(0.2) for mask in masks)


@pytest.mark.parametrize("name", ["sub/a.png", "sub/a.webp", "sub/a.mask.png", "{id}.png"])
@pytest.mark.parametrize("inside", [False, True])
def test_masks_may_be_in_a_folder_of_their_own(project, name, inside):
    key = project.add("sub/a", flat(1))
    folder = project.root / "masks" if inside else project.root.parent / "masks"
    path = folder / name.format(id=key)
    path.parent.mkdir(parents=True)
    white(value=51).save(path, lossless=True)
    summary, _ = project.prepare(masks=str(folder), default_caption="not the masks themselves")
    assert summary.pictures == 1 and not summary.dropped
    assert (project.masks()[key] == 51).all()


def test_masks_beside_labelled_pictures_are_no_pictures(project):
    labels = project.root.parent / "labels"
    labels.mkdir()
    project.add("a", flat(1), white(value=51))
    records = []
    for path in sorted(project.root.glob("*.png")):  # `elf predict` may have labelled masks too
        key = picture_id(path.read_bytes())
        records.append(json.dumps({"id": key, "path": path.name, "tags": []}) + "\n")
        (labels / f"{key}.txt").write_text("cat\n")
    (labels / "manifest.jsonl").write_text("".join(records))
    summary, _ = project.prepare(labels=str(labels))
    assert summary.pictures == 1 and len(project.masks()) == 1
    assert [(d.path, d.reason) for d in summary.dropped] == [("a.mask.png", "the mask of a.png")]


def test_a_name_like_a_masks_without_a_picture_is_a_pictures():
    assert split_masks(["a.jpg", "a.mask.png", "b.mask.png", "c/a.png"]) == (
        ["a.jpg", "b.mask.png", "c/a.png"], {"a.jpg": "a.mask.png"},
    )  # fmt: skip


def test_masks_are_no_pictures_to_other_steps_and_follow_theirs_when_renamed(tmp_path):
    project = Project(tmp_path)
    key = project.add("a", flat(1), white(value=51))
    orphan = picture_id(png(white(value=7)))
    (project.root / "b.mask.png").write_bytes(png(white(value=7)))
    assert picture_names(project.root) == ["a.png", "b.mask.png"]
    rename(project.root)
    names = {path.name for path in project.root.iterdir() if path.name[0] != "."}
    assert names == {f"{key}.png", f"{key}.mask.png", f"{key}.txt", f"{orphan}.png"}
    (project.root / f"{orphan}.png").unlink()
    project.prepare()
    assert (project.masks()[key] == 51).all()
    undo(project.root)
    assert {"a.png", "a.mask.png", "a.txt"} <= {path.name for path in project.root.iterdir()}


def test_masks_stand_in_tars_beside_their_pictures(project):
    members = {"a.png": png(flat(1)), "a.mask.png": png(white(value=51)), "a.txt": b"cat",
               "b.png": png(flat(2)), "b.txt": b"dog"}  # fmt: skip
    with tarfile.open(project.root / "x.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    summary, _ = project.prepare(pictures=None, tars=str(project.root / "x.tar"))
    assert summary.pictures == 2
    assert {key: mask.mean() for key, mask in project.masks().items()} == {
        picture_id(members["a.png"]): 51
    }


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_the_alpha_channel_is_a_mask_if_asked_for(project, mode):
    image = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    image.paste((9, 9, 9, 0), (0, 0, 32, 64))
    if mode == "P":
        paletted = Image.new("P", (64, 64), 1)
        paletted.paste(0, (0, 0, 32, 64))
        paletted.putpalette([9] * 6)
        key = project.add("a", paletted, transparency=0)
    else:
        key = project.add("a", image.convert(mode))
    opaque = project.add("b", flat(3))
    project.prepare(alpha_mask=True)
    masks = project.masks()
    assert (masks[key] == [[0] * 4 + [255] * 4] * 8).all() and opaque not in masks
    project.prepare()
    assert not project.masks()


def test_transparent_parts_of_a_mask_are_black(project):
    mask = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    mask.paste((255, 255, 255, 0), (0, 0, 64, 32))
    key = project.add("a", flat(1), mask)
    project.prepare()
    assert (project.masks()[key] == [[0] * 8] * 4 + [[255] * 8] * 4).all()


# --- changes ----------------------------------------------------------------------------------


def test_a_changed_mask_redoes_itself_alone_and_is_another_run(project):
    for number in range(3):
        project.add(str(number), flat(number), white(value=51))
    _, data = project.prepare()
    before = data.train_dataloader()
    others = {p.name: p.read_bytes() for p in project.shards.glob("[!.m]*-*")}
    project.encoder.pictures = 0
    (project.root / "1.mask.png").write_bytes(png(white(value=102)))
    summary, data = project.prepare()
    assert (summary.rendered, summary.latents, project.encoder.pictures) == (0, 0, 0)
    assert others == {p.name: p.read_bytes() for p in project.shards.glob("[!.m]*-*")}
    assert sorted(mask.mean() for mask in project.masks().values()) == [51, 51, 102]
    with pytest.raises(ElfError, match="trained with prepared data"):
        data.train_dataloader().load_state_dict(before.state_dict())
    again, _ = project.prepare()
    assert again.masks == 0


def test_a_mask_more_or_less_is_another_run(project):
    project.add("a", flat(1), white(value=51))
    _, data = project.prepare()
    hashes = [data.train_dataloader().index_hash]
    (project.root / "a.mask.png").unlink()
    _, data = project.prepare()
    hashes.append(data.train_dataloader().index_hash)
    assert len(set(hashes)) == 2 and not list(project.shards.glob("masks-*"))


def test_a_mask_of_a_held_out_picture_changes_no_run(project):
    for number in range(8):
        project.add(str(number), flat(number))
    _, data = project.prepare({"held_out": 0.3})
    before = data.train_dataloader().index_hash
    held = read_prepared(project.shards).held_out[0].id
    for path in project.root.glob("?.png"):
        if picture_id(path.read_bytes()) == held:
            (project.root / f"{path.stem}.mask.png").write_bytes(png(white(value=51)))
    _, data = project.prepare({"held_out": 0.3})
    assert len(project.masks()) == 1 and data.train_dataloader().index_hash == before


# --- what goes wrong --------------------------------------------------------------------------


def test_masks_that_do_not_fit_are_refused_by_name(project, capsys):
    project.add("good", flat(0), white())
    project.add("size", flat(1, (80, 60)), white((60, 80)))
    project.add("black", flat(2), white(value=0))
    project.add("broken", flat(3), b"no picture")
    cut = png(Image.effect_noise((64, 64), 50).convert("RGBA"))
    project.add("cut", cut[: len(cut) // 2])  # whose alpha channel would be its mask
    wide = Image.new("L", (256, 64))
    wide.paste(255, (0, 0, 64, 64))  # beside the crop
    project.add("cropped", flat(4, (256, 64)), wide)
    summary, _ = project.prepare({"min_side": 64, "max_side": 64}, alpha_mask=True)
    reasons = {drop.path: drop.reason for drop in summary.dropped}
    assert summary.pictures == 1
    assert reasons.pop("cut.png").startswith("damaged (")
    assert reasons.pop("broken.png").startswith(
        "its mask broken.mask.png is not a picture of a known format"
    )
    assert reasons == {
        "size.png": "its mask size.mask.png is 60×80 px, the picture 80×60",
        "black.png": "its mask black.mask.png is black, so nothing of the picture is left",
        "cropped.png": "its mask cropped.mask.png is black, so nothing of the picture is left",
    }
    assert "size.png: its mask size.mask.png is 60×80 px" in capsys.readouterr().out


def test_a_folder_of_masks_that_is_none_is_refused(project):
    project.add("a", flat(1))
    with pytest.raises(
        ElfError,
        match=r"^data\.sets\[0\]\.masks: no folder none; give one that is there, or leave it out$",
    ):
        project.prepare(masks="none")
    message = r"is the pictures' folder; masks beside pictures are called name\.mask\.png and need"
    with pytest.raises(ElfError, match=message):
        project.prepare(masks=str(project.root))
    other = project.root.parent / "masks"
    other.mkdir()
    white().save(other / "b.png")
    message = r"\.masks: no file in .*masks has the name of a picture \(name\.png or name\.mask"
    with pytest.raises(ElfError, match=message):
        project.prepare(masks=str(other))


def test_a_mask_that_changes_while_it_is_prepared_is_no_silent_mixture(project, monkeypatch):
    project.add("a", flat(1), white())
    real = project.encoder.fingerprints

    def change():
        (project.root / "a.mask.png").write_bytes(png(white(value=3)))
        return real()

    monkeypatch.setattr(project.encoder, "fingerprints", change)
    message = (
        r"^a\.mask\.png changed while it was prepared \(it is another mask now\): run `elf prep"
    )
    with pytest.raises(ElfError, match=message):
        project.prepare()


def test_a_cached_mask_is_plain_npy(tmp_path):
    (tmp_path / "a.npy").write_bytes(pack_mask(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
