import io
import json
import tarfile

import numpy as np
import pytest

from elf.errors import ElfError
from elf.language import preparing
from elf.language.preparing import prepare_tokens
from elf.language.settings import TextSettings
from elf.language.store import TokenStore
from elf.language.tokenizing import tokenizer_hash

SETTINGS = TextSettings(64, held_out=0.0)


@pytest.fixture
def prepare(tokenizer, tmp_path):
    """Prepare files into a folder; return the store, with what was said."""

    def run(*files, settings=SETTINGS, folder="tokens", using=None):
        using = using or tokenizer
        key = tokenizer_hash(using)
        summary = prepare_tokens(files, using, key, settings, tmp_path / folder)
        store = TokenStore.open(tmp_path / folder, settings, key)
        store.summary = summary
        return store

    return run


def words(store, tokenizer, number):
    """Return a document's tokens, those that are trained in brackets."""
    tokens, trained = store.document(number)
    assert tokens.dtype == np.int64 and trained.dtype == bool and not trained[0]
    return [
        f"[{token}]" if is_trained else token
        for token, is_trained in zip(
            tokenizer.convert_ids_to_tokens(tokens.tolist()), trained, strict=True
        )
    ]


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("[!.]*")
        if path.is_file()
    }


def test_rows_of_all_kinds_become_documents(prepare, tokenizer, write_rows, chat):
    path = write_rows(
        chat("u:Hello", "a:Yes.", "u:No"), {"prompt": "What is", "completion": " two"},
        {"text": "Yes. No."},
    )  # fmt: skip
    store = prepare(path)
    assert len(store) == 3 and store.train.tolist() == [0, 1, 2] and not len(store.validation)
    # what stands behind the last answer is left out
    assert words(store, tokenizer, 0)[-3:] == ["[s]", "[.]", "[<|im_end|>]"]
    assert words(store, tokenizer, 1) == ["What", "Ġis", "[Ġtwo]", "[<|im_end|>]"]
    assert words(store, tokenizer, 2)[-2:] == ["[.]", "[<|im_end|>]"]
    for number in range(3):
        tokens, trained = store.document(number)
        assert len(tokens) == store.lengths[number]
        assert np.count_nonzero(trained) == store.trained_counts[number]
    assert store.ids.tolist() == [int(row.id, 16) for row in preparing.read_rows([path])], (
        "each is its row's"
    )


def test_the_summary_is_good_to_read(prepare, tmp_path, write_rows, chat):
    path = write_rows(
        chat("u:Hello", "a:Yes.", "u:No", "a:" + "Hello " * 99), {"text": "Hello there. " * 50},
        {"prompt": "What", "completion": " is" * 99}, {"text": "Yes."}, {"text": "Yes."},
    )  # fmt: skip
    store = prepare(path)
    assert str(store.summary) == "\n".join([
        "rows       5 read",
        "documents  5 to train on, 0 held out",
        f"tokens     {store.lengths.sum()}, {store.trained_counts.sum() / store.lengths.sum():.1%} "
        "of them trained on",
        f"lengths    64 at most, {int(np.median(store.lengths))} in the median",
        f"  1 × shortened to whole answers within 64 tokens ({path}:1)",
        f"  1 × split into pieces of 64 tokens ({path}:2)",
        "left out   2",
        f"  1 × the same row as one before ({path}:5)",
        f"  1 × no answer ends within 64 tokens ({path}:3)",
    ])  # fmt: skip
    again = prepare(path).summary
    assert str(again) == f"{store.summary}\nunchanged  nothing was to be done"
    many = write_rows(*[{"text": "x"}] * 1002, name="many.jsonl")
    said = str(prepare(many).summary)
    assert f"left out   1,001\n  1,001 × the same row as one before ({many}:2 first)" in said


def test_notes_of_the_template_are_told(prepare, make_tokenizer, write_rows, chat):
    path = write_rows(chat("u:Hello", "a:Yes."))
    said = str(prepare(path, using=make_tokenizer("plain")).summary)
    assert said.endswith("note       the chat template ends an answer with no control token: a "
                         f"model is not taught to end its answers ({path}:1 first)")  # fmt: skip


def test_pieces_of_a_text_stay_together_in_the_split(prepare, write_rows):
    rows = [{"text": f"Number {number}. " + "Hello there. " * 40} for number in range(60)]
    store = prepare(write_rows(*rows), settings=TextSettings(32, held_out=0.3))
    assert len(set(store.ids.tolist())) == len(store) > 200
    starts = np.flatnonzero(store.lengths != 32) + 1  # behind each text's last piece
    for held in np.split(store.held_out, starts[:-1]):
        assert held.all() or not held.any()
    assert 0.1 < store.held_out.mean() < 0.5
    assert sorted([*store.train, *store.validation]) == list(range(len(store)))
    assert not store.held_out[store.train].any() and store.held_out[store.validation].all()
    assert store.summary.held_out == len(store.validation)


def test_nothing_changed_is_nothing_to_do(prepare, tmp_path, write_rows):
    path = write_rows(*[{"text": f"Hello {number}"} for number in range(30)])
    first = prepare(path)
    assert not first.summary.unchanged
    times = {each: each.stat().st_mtime_ns for each in (tmp_path / "tokens").rglob("*.npy")}
    moved = tmp_path / "moved.jsonl"
    path.rename(moved)
    assert prepare(moved).summary.unchanged, "its place does not matter"
    assert all(each.stat().st_mtime_ns == time for each, time in times.items())


def test_each_change_makes_it_anew(prepare, tmp_path, write_rows, make_tokenizer):
    path = write_rows(*[{"text": f"Hello {number}"} for number in range(30)])
    hashes = [prepare(path).index_hash]
    for settings in (TextSettings(5, held_out=0.0), TextSettings(5, held_out=0.5)):
        store = prepare(path, settings=settings)
        assert not store.summary.unchanged
        hashes.append(store.index_hash)
    write_rows(*[{"text": f"Hello {number}"} for number in range(31)])
    hashes.append(prepare(path).index_hash)
    store = prepare(path, using=make_tokenizer("llama"))
    assert not store.summary.unchanged
    hashes.append(store.index_hash)
    assert len(set(hashes)) == 5
    assert len(list((tmp_path / "tokens").glob("[!.]*"))) == 2, "the old arrays are gone"


def test_the_same_rows_give_the_same_bytes(prepare, tmp_path, write_rows, monkeypatch, chat):
    rows = [
        chat("u:Hello", f"a:{number}") if number % 3 else {"text": f"Hello {number} " * 9}
        for number in range(50)
    ]
    path = write_rows(*rows)
    one = prepare(path, folder="one")
    monkeypatch.setattr(preparing, "_ROWS", 7)
    prepare(path, folder="two")
    assert content(tmp_path / "one") == content(tmp_path / "two")
    tar = tmp_path / "rows.tar"
    with tarfile.open(tar, "w") as file:
        for number, row in enumerate(rows):
            data = json.dumps(row, indent=1).encode()
            info = tarfile.TarInfo(f"{number:04}.json")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    assert prepare(tar, folder="tar").index_hash == one.index_hash


def test_a_large_vocabulary_takes_wider_numbers(prepare, make_tokenizer, write_rows):
    path = write_rows({"text": "Hello word70000 there"})
    large = make_tokenizer("chatml")
    large.add_tokens([f"word{number}" for number in range(70_001)])
    store = prepare(path, using=large)
    assert store.meta["arrays"]["tokens"]["dtype"] == "<u4"
    assert large.decode(store.document(0)[0][:-1]) == "Hello word70000 there"


def test_what_cannot_be_trained_on_is_refused_and_the_old_stays(
    prepare, tmp_path, write_rows, chat
):
    store = prepare(write_rows({"text": "Hello"}))
    before = content(tmp_path / "tokens")
    forged = write_rows({"text": "a"}, chat("u:Hi<|im_end|>", "a:Yes."), name="forged.jsonl")
    long = write_rows({"prompt": "a", "completion": "b" * 500}, name="long.jsonl")
    for path, message in {
        forged: r"forged.jsonl:2: the user's words hold the control token '<\|im_end\|>'",
        long: r"no row of .*long.jsonl is left to train on: no answer ends within 64 tokens "
        r"\(.*long.jsonl:1 first\)",
        write_rows(
            name="empty.jsonl"
        ): r"no row of .*empty.jsonl is left to train on: it is empty; give others$",
        write_rows(b"{", name="torn.jsonl"): "torn.jsonl:1: not JSON",
    }.items():
        with pytest.raises(ElfError, match=message):
            prepare(path)
        assert content(tmp_path / "tokens") == before
        assert not list((tmp_path / "tokens").glob(".new*"))
    key = store.meta["tokenizer"]
    assert len(TokenStore.open(tmp_path / "tokens", SETTINGS, key)) == 1


def test_a_file_that_changes_while_it_is_read_is_refused(prepare, write_rows, monkeypatch):
    path = write_rows({"text": "Hello"})
    real = preparing.read_rows

    def read(paths):
        yield from real(paths)
        path.write_bytes(path.read_bytes() + b"\n")

    monkeypatch.setattr(preparing, "read_rows", read)
    with pytest.raises(ElfError, match=r"rows.jsonl was changed while it was read: run the comm"):
        prepare(path)


def test_disk_errors_and_missing_files_are_one_line(prepare, write_rows, monkeypatch, tmp_path):
    path = write_rows({"text": "Hello"})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elf.language.storewriter.move_over", full)
    with pytest.raises(ElfError, match=r"tokens: could not be written \(No space.*\); make room"):
        prepare(path)
    assert not list((tmp_path / "tokens").glob("[!.]*"))
    monkeypatch.setattr(preparing, "sha256_file", full)
    with pytest.raises(ElfError, match=r"rows.jsonl could not be read \(No space.*\): mend it"):
        prepare(path)
