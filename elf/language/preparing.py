"""`elf prepare` for text: rows → documents of tokens, cached by their settings and the tokenizer.

Rows are read, tokenised and written batch by batch, so that memory does not grow with them but for
some 60 bytes each. Sources, settings and tokenizer decide what is written; a run that finds it
there has nothing to do.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from elf.errors import ElfError
from elf.files import FolderLock, explain_disk_errors, sha256_file
from elf.language.documents import Begun, Document, begin_prompts, begin_texts
from elf.language.rowfiles import SeenIds, find_row_files, read_rows
from elf.language.rows import Row
from elf.language.settings import TextSettings
from elf.language.store import TokenStore, sweep
from elf.language.storewriter import StoreWriter
from elf.language.template import ChatTemplate
from elf.language.textsummary import Counted, TextSummary
from elf.language.tokenizing import Tokenizing
from elf.language.truncation import fit, piece_id

_ROWS, _CHARACTERS = 1000, 1 << 22  # of a batch at most, but for its last row
_AGAIN = "the same row as one before"


def prepare_tokens(
    files: Sequence[str | Path],
    tokenizer: Any,
    tokenizer_hash: str,
    settings: TextSettings,
    folder: str | Path,
) -> TextSummary:
    """Bring a folder of tokens up to date with files of rows.

    A run that is killed leaves what was there before; the next one begins anew, and its result is
    the same, byte for byte, as that of an undisturbed run.

    Args:
        files: .jsonl and .tar files, or folders of them.
        tokenizer: A fast one, of transformers.
        tokenizer_hash: What stands for it.
        settings: Of documents.
        folder: To write into.

    Raises:
        ElfError: If a file or row cannot be trained on, or nothing is left to train on.
    """
    paths = find_row_files(files)
    folder = Path(folder)
    sources = list(map(_source, paths))
    remedy = "make room, or name another folder; then run the same command again"
    with explain_disk_errors(folder, "could not be written", remedy), FolderLock(folder):
        if (there := _unchanged(folder, settings, tokenizer_hash, sources)) is not None:
            return there
        before = [path.stat() for path in paths]
        with (
            contextlib.closing(Tokenizing(tokenizer)) as tokenizing,
            StoreWriter(folder, tokenizing.vocabulary) as writer,
        ):
            counts = _Counts()
            documents = _Documents(tokenizing, settings)
            rows = tqdm(read_rows(paths), unit=" rows", disable=None)
            for batch, begun in _one_ahead(documents, _batches(rows, counts)):
                for row, document in zip(batch, begun(), strict=True):
                    _write(writer, row, document, settings, counts)
            for path, old in zip(paths, before, strict=True):
                new = path.stat()
                if (old.st_size, old.st_mtime_ns) != (new.st_size, new.st_mtime_ns):
                    raise ElfError(f"{path} was changed while it was read: run the command again")
            if not writer.documents:
                reason = max(counts.left_out.all(), key=lambda each: each.count, default=None)
                why = f": {reason.reason} ({reason.first} first)" if reason else ": it is empty"
                raise ElfError(f"no row of {paths[0]} is left to train on{why}; give others")
            summary = writer.summary(
                settings.held_out,
                rows=counts.rows,
                left_out=counts.left_out.all(),
                shortened=counts.shortened.all(),
                notes=documents.notes(),
            )
            writer.finish(
                settings=settings.as_json(),
                tokenizer=tokenizer_hash,
                sources=sources,
                summary=summary.as_json(),
            )
    return summary


class _Counts:
    """What is told of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self.left_out, self.shortened = Counted(), Counted()


class _Documents:
    """Turns rows of all kinds into documents."""

    def __init__(self, tokenizing: Tokenizing, settings: TextSettings) -> None:
        self._tokenizing, self._settings = tokenizing, settings
        self._template: ChatTemplate | None = None  # files without chats need none

    def begin(self, rows: Sequence[Row]) -> Begun:
        """Begin the document of each row."""
        for row in rows:
            self._tokenizing.refuse_control(row)
        chats = [row for row in rows if row.kind == "chat"]
        if chats and self._template is None:
            each = self._settings
            self._template = ChatTemplate(
                self._tokenizing, each.chat_template, each.train_on, each.length
            )
        everything = self._settings.train_on == "everything"
        prompts = [row for row in rows if row.kind == "prompt"]
        texts = [row for row in rows if row.kind == "text"]
        begun = {
            "chat": self._template.begin(chats) if self._template else list,
            "prompt": begin_prompts(prompts, self._tokenizing, everything),
            "text": begin_texts(texts, self._tokenizing),
        }

        def documents() -> list[Document]:
            found = {kind: iter(each()) for kind, each in begun.items()}
            return [next(found[row.kind]) for row in rows]

        return documents

    def notes(self) -> list[str]:
        """Return what the user is to know."""
        notes = self._template.notes.items() if self._template else ()
        return [f"{note} ({where} first)" if where else note for note, where in notes]


def _batches(rows: Iterator[Row], counts: _Counts) -> Iterator[list[Row]]:
    """Yield the rows that are no copies, in batches."""
    seen = SeenIds()
    batch: list[Row] = []
    characters = 0
    for row in rows:
        counts.rows += 1
        if not seen.add(int(row.id, 16)):
            counts.left_out.add(_AGAIN, row.where)
            continue
        batch.append(row)
        characters += sum(len(turn.content) for turn in row.turns)
        if len(batch) == _ROWS or characters > _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _one_ahead(
    documents: _Documents, batches: Iterator[list[Row]]
) -> Iterator[tuple[list[Row], Begun]]:
    """Yield batches of which the next is begun already: it is tokenised meanwhile."""
    last = None
    for batch in batches:
        begun = batch, documents.begin(batch)
        if last:
            yield last
        last = begun
    if last:
        yield last


def _write(
    writer: StoreWriter, row: Row, document: Document, settings: TextSettings, counts: _Counts
) -> None:
    fitted = fit(document, settings.length, settings.truncation)
    if fitted.reason:
        counts.left_out.add(fitted.reason, row.where)
    if fitted.shortened:
        what = "shortened to whole answers" if settings.truncation == "whole" else "cut"
        counts.shortened.add(f"{what} within {settings.length} tokens", row.where)
    if len(fitted.documents) > 1:
        counts.shortened.add(f"split into pieces of {settings.length} tokens", row.where)
    for number, piece in enumerate(fitted.documents):
        whole = not document.splits or len(document) <= settings.length
        writer.add(row.id if whole else piece_id(row.id, number), row.id, piece)


def _source(path: Path) -> dict[str, Any]:
    try:
        return {"sha256": sha256_file(path), "size": path.stat().st_size}
    except OSError as error:
        raise ElfError(
            f"{path} could not be read ({error.strerror or error}): mend it, or leave it out"
        ) from None


def _unchanged(
    folder: Path, settings: TextSettings, tokenizer: str, sources: list[dict[str, Any]]
) -> TextSummary | None:
    """Return what was done before if it is what is to be done now."""
    sweep(folder)
    try:
        store = TokenStore.open(folder, settings, tokenizer)
        if store.meta["sources"] == sources:
            return TextSummary.from_json(store.meta["summary"])
    except ElfError:
        pass  # it is made anew
    return None
