"""Who may import what, and how long a file may be."""

import ast
import functools
from pathlib import Path

import pytest

import elf

PACKAGE = Path(elf.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
STANDARD_ONLY = {
    "__main__", "allocator", "cli", "configuration.config_errors", "errors", "files", "nvidia",
    "platforms", "preparation.buckets", "resources",
}  # fmt: skip
WITHOUT_TORCH = STANDARD_ONLY | {
    "draws", "images", "labels.manifest", "language.arrays", "language.documents",
    "language.packing", "language.preparing", "language.rowfiles", "language.rows",
    "language.settings", "language.store", "language.storewriter", "language.template",
    "language.textsummary", "language.tokenizing", "language.truncation", "preparation.captions",
    "preparation.sets", "preparation.shards", "preparation.splitting", "training.epoch",
}  # fmt: skip
WITHOUT_LIGHTNING = WITHOUT_TORCH | {
    "autocasting", "pretrained", "training.averaging", "training.building", "training.compiling",
    "training.denoiser", "training.identity", "training.losscheck", "training.optimization",
    "training.recomputing", "training.schedules", "training.validation",
}  # fmt: skip
PURE = (
    "adapters", "bases", "embedders", "fused", "language", "objective", "planning", "quantized",
    "stepping", "taggers",
)  # fmt: skip
ARRAYS = ("metrics",)  # functions of NumPy arrays, whatever computed them
ALONE = {
    "gradio": {"serving.page", "serving.chatpage", "serving.pageparts"},
    "fiftyone": {"fiftyone_app"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "elf"


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text("utf-8"))))


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    nodes = nodes_of(path)
    if top_level_only:
        nodes = [*ast.parse(path.read_text("utf-8")).body]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_elf(path: Path) -> set[str]:
    return {name.removeprefix("elf.") for name in imports(path) if name.startswith("elf.")}


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_each_module_imports_only_what_it_may(path: Path) -> None:
    name = module_name(path)
    package = name.split(".")[0]
    used = {imported.split(".")[0] for imported in of_elf(path)}
    assert "cli" not in used or name == "__main__", "nothing imports cli"
    if package == "modules":
        assert "datamodules" not in used
    if package == "datamodules":
        assert "modules" not in used
    if package in ("taggers", "callbacks", "bases", "embedders"):
        assert not used & {"modules", "datamodules"}
    if name in WITHOUT_TORCH or package in ARRAYS:
        assert not libraries(path) & {"torch", "lightning", "diffusers", "transformers", "peft"}
    if name in WITHOUT_LIGHTNING or package in PURE:
        assert "lightning" not in libraries(path)
    if package in ARRAYS:
        assert used <= {package, "errors"}
    for library, users in ALONE.items():
        assert library not in libraries(path) or name in users


def test_embedders_load_no_model_library_before_a_model_is_made() -> None:
    for path in (PACKAGE / "embedders").glob("*.py"):
        early = {name.split(".")[0] for name in imports(path, top_level_only=True)}
        assert not early & {"transformers", "torchvision", "timm", "onnxruntime", "safetensors"}


def test_what_reads_a_strangers_pickle_stands_alone() -> None:
    path = PACKAGE / "embedders" / "archive.py"
    assert of_elf(path) == {"errors", "errors.ElfError", "errors.first_line"}
    assert not imports(path) & {"os", "subprocess", "importlib", "torch.jit", "torch.serialization"}


@pytest.mark.parametrize("name", sorted(STANDARD_ONLY))
def test_the_core_needs_the_standard_library_alone(name: str) -> None:
    import sys

    path = PACKAGE / f"{name.replace('.', '/')}.py"
    outside = libraries(path) - set(sys.stdlib_module_names) - {"elf"}
    assert not outside


OF_ONE_SYSTEM = {
    "sys.platform", "os.name", "os.fsync", "os.fdatasync", "os.sync", "os.pread", "os.preadv",
    "os.replace", "os.kill", "os.killpg", "os.fork", "os.register_at_fork", "os.uname",
    "os.posix_fadvise", "os.getuid", "os.sched_getaffinity", "platform.system",
    "platform.release", "socket.SO_REUSEADDR", "signal.SIGHUP", "signal.SIGKILL",
    "signal.SIGALRM", "signal.SIGUSR2",
}  # fmt: skip
"""What some system lacks, or does in another way."""
ONLY_THERE = {"fcntl", "msvcrt", "resource", "termios", "pwd", "grp", "winreg"}


def test_what_differs_between_systems_stands_in_one_file() -> None:
    for path in FILES:
        if module_name(path) == "platforms":
            continue
        named = {
            f"{node.value.id}.{node.attr}"
            for node in nodes_of(path)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        assert not named & OF_ONE_SYSTEM, path
        assert not libraries(path) & ONLY_THERE, path


def in_the_locales_encoding(call: ast.Call) -> bool:
    """Whether a call opens text without saying in which encoding: Windows has another."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    given = {word.arg for word in call.keywords}
    if "encoding" in given:
        return False
    if name == "open" and isinstance(call.func, ast.Name):
        mode = call.args[1] if len(call.args) > 1 else next(
            (word.value for word in call.keywords if word.arg == "mode"), None
        )  # fmt: skip
        return not (isinstance(mode, ast.Constant) and "b" in str(mode.value))
    if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
        return len(call.args) < (1 if name == "read_text" else 2)
    return name in ("run", "Popen", "check_output") and bool(given & {"text", "universal_newlines"})


def test_text_is_read_and_written_in_an_encoding_that_is_said() -> None:
    for path in FILES:
        calls = [node for node in nodes_of(path) if isinstance(node, ast.Call)]
        assert [call.lineno for call in calls if in_the_locales_encoding(call)] == [], path


def test_files_are_small() -> None:
    lengths = {module_name(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 160
    assert not [path for path in FILES if path.name == "utils.py"]
