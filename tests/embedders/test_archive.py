"""Archives that torch wrote are read; those that a stranger made run nothing and are one line."""

import io
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from elf.embedders.archive import MOST_PICKLE, read_tensors
from elf.errors import ElfError

GLOBAL = b"c__torch__ M\n".replace(b" ", b"\n")
TENSOR, FLOAT = b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def storage(key: str = "0", count: int = 4, kind: bytes = FLOAT, word: str = "storage") -> bytes:
    return b"(" + text(word) + kind + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(
    size: tuple[int, ...] = (4,),
    stride: tuple[int, ...] = (1,),
    offset: int = 0,
    source: bytes | None = None,
) -> bytes:
    sides, steps = (b"(" + b"".join(map(number, part)) + b"t" for part in (size, stride))
    empty = b"ccollections\nOrderedDict\n)R"
    return (
        TENSOR + b"(" + (source or storage()) + number(offset) + sides + steps + b"\x89" + empty
        + b"tR"
    )  # fmt: skip


def module(**attributes: bytes) -> bytes:
    inside = b"".join(text(name) + value for name, value in attributes.items())
    return GLOBAL + b")\x81}(" + inside + b"ub"


def write(path: Path, described: bytes, numbers: bytes | None = None, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + described + b".")
        archive.writestr(
            "x/data/0", np.arange(4, dtype="<f4").tobytes() if numbers is None else numbers
        )
        for name, data in members.items():
            archive.writestr(f"x/{name}", data)
    return path


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sizes = [1, 2, 3]
        self.scale = 1.5
        self.name = "net"
        self.pair = (1, 2.0)
        self.blocks = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        self.head = torch.nn.Linear(4, 2)
        self.head.bias = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).mean(dim=(2, 3))) * self.scale + float(self.sizes[0])


def saved(path: Path, how: str) -> tuple[Path, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    net = Net().eval()
    if how == "half":
        net.half()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        if how == "trace":
            torch.jit.trace(net, torch.zeros(1, 3, 8, 8)).save(path)
        elif how == "state dict":
            torch.save(net.state_dict(), path)
        else:
            torch.jit.script(net).save(path)
    return path, net.state_dict()


@pytest.mark.parametrize("how", ["script", "trace", "state dict", "half"])
def test_what_torch_wrote_is_read_to_the_bit(tmp_path: Path, how: str) -> None:
    path, expected = saved(tmp_path / "net.pt", how)
    found = read_tensors(path, "way")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_views_of_one_storage_are_views(tmp_path: Path) -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {"a": whole, "b": whole.t(), "c": whole[1:, 2], "d": torch.empty(0), "e": whole[0, 0]}
    torch.save(OrderedDict(state), tmp_path / "views.pt")
    found = read_tensors(tmp_path / "views.pt", "way")
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert found["a"].data_ptr() == found["b"].data_ptr()


def test_an_archive_made_by_hand_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pt", module(weight=tensor(), inner=module(bias=tensor((2,), (2,)))))
    found = read_tensors(path, "way")
    assert {name: value.tolist() for name, value in found.items()} == {
        "weight": [0, 1, 2, 3],
        "inner.bias": [0, 2],
    }


class Hostile:
    def __init__(self, function: object, *arguments: object) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> object:
        return self._reduced


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (os.system, r"(posix|nt)\.system"),
        (eval, r"(builtins|__builtin__)\.eval"),
        (getattr, r"(builtins|__builtin__)\.getattr"),
        (torch.load, r"torch\.serialization\.load"),
        (torch.hub.load, r"torch\.hub\.load"),
        (pickle.loads, r"_?pickle\.loads"),
    ],
)
@pytest.mark.parametrize("place", ["top", "inside", "state"])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, function: object, shown: str, place: str
) -> None:
    marker = tmp_path / "ran"
    attack = pickle.dumps(Hostile(function, f"touch {marker}"), protocol=2)[2:-1]
    described = {
        "top": attack,
        "inside": module(weight=tensor(), evil=attack),
        "state": GLOBAL + b")\x81" + attack + b"b",
    }[place]
    path = write(tmp_path / "x.pt", described)
    message = rf"^\S+x\.pt: asks for {shown}, which no weights need .*\(it was not run\); the way$"
    with pytest.raises(ElfError, match=message):
        read_tensors(path, "the way")
    assert not marker.exists()


def test_an_attack_outside_of_the_module_is_never_read(tmp_path: Path) -> None:
    evil = pickle.dumps(Hostile(os.system, f"touch {tmp_path / 'ran'}"), protocol=2)
    members = {"constants.pkl": evil, "code/__torch__.py": b"import os", "extra.pkl": evil}
    path = write(tmp_path / "x.pt", module(weight=tensor()), **members)
    assert list(read_tensors(path, "way")) == ["weight"]
    assert not (tmp_path / "ran").exists()


CYCLE = b"q\x00}(" + text("me") + b"h\x00ub"


def doubling(levels: int) -> bytes:
    """Modules of which each holds the one before it twice: 2 ** levels of them to a reader."""
    held = {"m0": module() + b"q\x00"}
    for level in range(levels):
        below = b"h" + bytes([level])
        held[f"m{level + 1}"] = module(a=below, b=below) + b"q" + bytes([level + 1])
    return module(**held)


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        (module(weight=tensor((5,))), "a tensor reaches beyond its storage"),
        (module(weight=tensor((2,), (4,))), "a tensor reaches beyond its storage"),
        (module(weight=tensor(offset=1)), "a tensor reaches beyond its storage"),
        (module(weight=tensor((2000000000, 2000000000), (0, 0))), "reaches beyond its storage"),
        (module(weight=tensor((-1,))), "a tensor's shape is none"),
        (module(weight=tensor((4,), (1, 1))), "a tensor's shape is none"),
        (
            module(weight=tensor(source=storage(count=5))),
            "data/0 has 16 bytes, not 5 torch.float32",
        ),
        (module(weight=tensor(source=storage("1"))), "There is no item named 'x/data/1'"),
        (module(weight=tensor(source=storage("../0"))), "something other than a storage"),
        (module(weight=tensor(source=storage(word="module"))), "something other than a storage"),
        (module(weight=tensor(source=storage(kind=text("f4")))), "something other than a storage"),
        (
            module(
                a=tensor(),
                b=tensor((2,), source=storage(kind=b"ctorch\nLongStorage\n", count=2)),
            ),
            "data/0 is of two types",
        ),
        (GLOBAL + b")\x81]b", "an object's state is no mapping of its attributes"),
        (GLOBAL + b")\x81" + CYCLE, "more than 10000 modules in each other"),
        (doubling(40), "more than 10000 modules in each other"),
        (b"Nr\xff\xff\xff\x7f", "its pickle's memo has gaps"),
        (b"\x8c\x01a", "its pickle uses SHORT_BINUNICODE"),
        (b"(i__torch__\nM\n", "its pickle uses INST"),
        (b"\x82\x01", "its pickle uses EXT1"),
        (b"X\xff\xff\xff\x7fabc", "expected 2147483647 bytes in a unicodestring4"),
        (b"", "unpickling stack underflow"),
    ],
)
def test_what_torch_would_not_write_is_one_line(
    tmp_path: Path, described: bytes, reason: str
) -> None:
    path = write(tmp_path / "x.pt", described)
    with pytest.raises(ElfError) as caught:
        read_tensors(path, "the way")
    message = str(caught.value)
    assert message.startswith(f"{path}: no whole archive of torch's (") and reason in message
    assert message.endswith("); the way") and "\n" not in message


def test_a_name_that_is_asked_for_cannot_write_into_the_message(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pt", b"cos\rfine" + b"y" * 500 + b"\nsystem\n")
    with pytest.raises(ElfError) as caught:
        read_tensors(path, "the way")
    assert "asks for 'os\\rfineyyy" in str(caught.value)
    assert len(str(caught.value).removeprefix(str(path))) < 220


def test_members_that_lie_in_each_other_are_not_read_again_and_again(tmp_path: Path) -> None:
    path, size = tmp_path / "x.pt", 4000
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("x/data/1", bytes(size))
        end = archive.start_dir
        within = archive.getinfo("x/data/1")
    inside = inner.getvalue()[:end] + bytes(-end % 4)
    sources = [storage("0", len(inside) // 4), storage("1", size // 4)]
    described = module(a=tensor(source=sources[0]), b=tensor(source=sources[1]))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + described + b".")
        archive.writestr("x/data/0", inside)
        outer = archive.getinfo("x/data/0")
        within.header_offset = outer.header_offset + 30 + len(outer.filename)
        archive.filelist.append(within)
    # newer Pythons notice it themselves
    with pytest.raises(ElfError, match=r"its storages are larger than the file|Overlapped entries"):
        read_tensors(path, "the way")


def test_other_containers_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    wrongs = {
        "0 data.pkl in it, not one": {"x/other": b""},
        "2 data.pkl in it, not one": {"x/data.pkl": b"", "y/data.pkl": b""},
        "its numbers are not little-endian": {"x/data.pkl": b"", "x/byteorder": b"big"},
        f"data.pkl has {MOST_PICKLE + 1:,} bytes": {"x/data.pkl": bytes(MOST_PICKLE + 1)},
    }
    for reason, members in wrongs.items():
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        with pytest.raises(ElfError) as caught:
            read_tensors(path, "the way")
        assert f"({reason})" in str(caught.value)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1000))
    with pytest.raises(ElfError, match=r"data\.pkl is compressed"):
        read_tensors(path, "the way")
    path.write_bytes(pickle.dumps({}, protocol=2))  # what torch wrote before version 1.6
    with pytest.raises(ElfError, match="File is not a zip file"):
        read_tensors(path, "the way")
    with pytest.raises(ElfError, match="No such file"):
        read_tensors(tmp_path / "none.pt", "the way")


def test_a_file_that_is_cut_or_bent_anywhere_is_one_line(tmp_path: Path) -> None:
    path, expected = saved(tmp_path / "net.pt", "script")
    data = path.read_bytes()
    for cut in range(0, len(data) - 1, 97):
        path.write_bytes(data[:cut])
        with pytest.raises(ElfError, match="no whole archive of torch's"):
            read_tensors(path, "way")
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        bent = bytearray(data)
        bent[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(bent)
        try:
            found = read_tensors(path, "way")
        except ElfError as error:
            assert "\n" not in str(error)
            refused += 1
        else:  # the bit was in what is not read
            assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert refused > 20
