"""What is fuzzed, a module each: what reads a stranger's files, and whole files to begin with.

Each module has

- ``seeds(folder)``: yields inputs that are as they should be; may write below the folder;
- ``target(folder)``: returns the check of one input, which writes files below the folder;
- ``mutate(data, draw)``, if changed bytes alone would hardly get past a parser: returns another
  input;
- ``hurry()``, perhaps: makes inputs cheaper, by changes that hold for all of the process;
- ``WORDS``: pieces that the fuzzer puts into inputs; ``READ_BY``: packages beside Elf whose code
  guides it.

A module for several kinds of files takes an input's first byte as the kind's number.
"""

TARGETS = (
    "pictures", "tars", "shards", "logs", "rows", "configs", "adapters", "bases", "reports",
)  # fmt: skip


def split(data: bytes, kinds: int) -> tuple[int, bytes]:
    """Return the number of a kind of file, and the file's bytes."""
    return data[0] % kinds if data else 0, data[1:]


def join(kind: int, data: bytes) -> bytes:
    """Return the input that stands for a file of a kind."""
    return bytes([kind]) + data
