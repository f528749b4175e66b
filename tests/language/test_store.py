import pickle
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest

from elf.checked import read_checked, write_checked
from elf.errors import ElfError
from elf.language.arrays import ArrayWriter, map_array
from elf.language.preparing import prepare_tokens
from elf.language.settings import TextSettings
from elf.language.store import META, TokenStore
from elf.language.tokenizing import tokenizer_hash

SETTINGS = TextSettings(32, held_out=0.2)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """A folder of tokens, and the tokenizer's hash."""
    folder = tmp_path_factory.mktemp("made")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "Hello {number}"}}\n' for number in range(40)))
    key = tokenizer_hash(tokenizer)
    prepare_tokens([rows], tokenizer, key, SETTINGS, folder / "tokens")
    return folder, key


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made[0] / "tokens", tmp_path / "tokens")


def test_a_store_travels_to_workers_without_its_arrays(folder, made):
    store = TokenStore.open(folder, SETTINGS, made[1])
    data = pickle.dumps(store)
    assert len(data) < 5000
    other = pickle.loads(data)
    assert other.index_hash == store.index_hash
    assert all(
        np.array_equal(one, two)
        for number in range(len(store))
        for one, two in zip(store.document(number), other.document(number), strict=True)
    )


def test_documents_are_copies(folder, made):
    store = TokenStore.open(folder, SETTINGS, made[1])
    tokens, trained = store.document(3)
    tokens[:], trained[:] = 0, False
    assert store.document(3)[0].any() and store.document(3)[1].any()


def test_numpy_reads_the_arrays(folder, made):
    store = TokenStore.open(folder, SETTINGS, made[1])
    arrays = {path.stem: np.load(path) for path in folder.glob("*/*.npy")}
    assert arrays["ids"].tolist() == store.ids.tolist()
    assert arrays["tokens"].dtype == np.uint16 and arrays["trained"].dtype == bool
    assert np.diff(arrays["offsets"]).tolist() == store.lengths.tolist()
    assert arrays["held_out"].tolist() == store.held_out.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 64}, "data.length 32 and not 64"),
        ({"train_on": "last"}, "data.train_on completion and not last"),
        ({"truncation": "cut"}, "data.truncation whole and not cut"),
        ({"held_out": 0.0}, "data.held_out 0.2 and not 0.0"),
        ({"chat_template": "x\ny"}, "another data.chat_template"),
    ],
)
def test_other_settings_are_stale(folder, made, change, message):
    with pytest.raises(ElfError) as error:
        TokenStore.open(folder, replace(SETTINGS, **change), made[1])
    assert str(error.value) == f"{folder} was made with {message}: run `elf prepare` again"


def test_another_tokenizer_or_format_is_stale(folder, made):
    with pytest.raises(ElfError, match="made with another tokenizer or chat template: run `elf"):
        TokenStore.open(folder, SETTINGS, "0" * 64)
    meta = read_checked(folder / META, "")
    write_checked(folder / META, {**meta, "format": 0})
    with pytest.raises(ElfError, match="made with another version of elf: run `elf prepare` again"):
        TokenStore.open(folder, SETTINGS, made[1])


def test_a_missing_store(tmp_path):
    with pytest.raises(ElfError, match=r"meta.json is missing: run `elf prepare` again"):
        TokenStore.open(tmp_path, SETTINGS, "")


@pytest.mark.fault(6)
@pytest.mark.parametrize("name", ["tokens", "trained", "offsets", "ids", "held_out"])
def test_a_missing_or_cut_array(folder, made, name):
    (path,) = folder.glob(f"*/{name}.npy")
    data = path.read_bytes()
    for size in (0, 50, 128, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ElfError, match=rf"{name}.npy is cut or damaged \(it has another head"):
            TokenStore.open(folder, SETTINGS, made[1])
    path.unlink()
    with pytest.raises(ElfError, match=rf"{name}.npy is missing: run `elf prepare` again"):
        TokenStore.open(folder, SETTINGS, made[1])


@pytest.mark.fault(5)
@pytest.mark.parametrize("flips", [200, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(3600)
def test_any_flipped_bit_is_noticed(folder, made, flips, figures):
    flips = figures.part(flips)
    draw = random.Random(0)
    paths = [folder / META, *sorted(folder.glob("*/*.npy"))]
    TokenStore.open(folder, SETTINGS, made[1])  # what is verified is verified again
    for _ in range(flips):
        path = draw.choice(paths)
        data = bytearray(whole := path.read_bytes())
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        with pytest.raises(ElfError, match=r"damaged .*: run `elf prepare` again"):
            TokenStore.open(folder, SETTINGS, made[1])
        path.write_bytes(whole)
    assert len(TokenStore.open(folder, SETTINGS, made[1])) == 40
    figures(flips=flips, missed=0)


def test_damage_is_made_good(folder, made, tokenizer):
    (path,) = folder.glob("*/tokens.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    rows = made[0] / "rows.jsonl"
    summary = prepare_tokens([rows], tokenizer, made[1], SETTINGS, folder)
    assert not summary.unchanged and path.read_bytes() == whole


def test_what_was_verified_is_not_hashed_again(folder, made, monkeypatch):
    TokenStore.open(folder, SETTINGS, made[1])

    hashed = []

    class Counting:
        @staticmethod
        def sha256(data):
            hashed.append(len(data))

    monkeypatch.setattr("elf.language.store.hashlib", Counting)
    assert len(TokenStore.open(folder, SETTINGS, made[1])) == 40
    assert not hashed


def test_a_strangers_list_of_arrays_leads_nowhere(folder, made):
    meta = read_checked(folder / META, "")
    for change, message in (
        ({"folder": "../../etc"}, r"names the folder '../../etc', which is none of its own"),
        ({"arrays": {"tokens": {}}}, "is no list of token arrays: run `elf prepare` again"),
        ({"arrays": {}}, "is no list of token arrays"),
        ({"arrays": {**meta["arrays"], "ids": {**meta["arrays"]["ids"], "dtype": "|O"}}},
         r"ids.npy is cut or damaged \(its type is not known\)"),
    ):  # fmt: skip
        write_checked(folder / META, {**meta, **change})
        with pytest.raises(ElfError, match=message):
            TokenStore.open(folder, SETTINGS, made[1])


def test_arrays_are_numpys_whatever_their_length(tmp_path):
    path = tmp_path / "a.npy"
    for count in (0, 1, 1000):
        writer = ArrayWriter(path, np.uint16)
        for start in range(0, count, 100):
            writer.append(np.arange(start, min(start + 100, count)))
        writer.close()
        assert (
            np.load(path).tolist() == map_array(path, "<u2", count).tolist() == list(range(count))
        )
        with pytest.raises(ValueError, match="another head or size"):
            map_array(path, "<u2", count + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1}, "data.length: 1 tokens; 2 are the least that can be learnt"),
        ({"length": 9, "held_out": 1.0}, "data.held_out: 1.0 is no share; give 0 to less than 1"),
        ({"length": 9, "train_on": "x"}, "data.train_on: 'x' is not known; give one of completion, "
                                         "last, everything"),
        ({"length": 9, "truncation": "x"}, "data.truncation: 'x' is not known; give one of whole, "
                                           "cut"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ElfError) as error:
        TextSettings(**settings)
    assert str(error.value) == message
