"""Files that ship with Elf: the configs and the tiny models, in a checkout or in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(path: str) -> Path:
    """Return a file or folder that ships with Elf (``configs/...``, ``models/tiny/...``).

    A checkout has it beside the package, an installed wheel inside it.
    """
    beside = _PACKAGE.parent / path
    if (_PACKAGE.parent / "pyproject.toml").exists() and beside.exists():
        return beside
    return _PACKAGE / "shipped" / path


def find(path: str) -> str:
    """Return the path itself if it exists from here, else the shipped file of that name.

    So that ``--config configs/train/sd15-lora.yaml`` works in any folder.
    """
    if path.startswith(("configs/", "models/tiny")) and not Path(path).exists():
        candidate = shipped(path)
        if candidate.exists():
            return str(candidate)
    return path


def resolve_configs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the arguments with shipped configs found from any folder, and all configs given."""
    resolved: list[str] = []
    files: list[str] = []
    for argument in arguments:
        if resolved and resolved[-1] in ("-c", "--config"):
            argument = find(argument)
            files.append(argument)
        elif argument.startswith("--config="):
            files.append(find(argument.removeprefix("--config=")))
            argument = f"--config={files[-1]}"
        resolved.append(argument)
    return resolved, files
