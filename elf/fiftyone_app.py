"""The FiftyOne App as ``elf label`` and ``elf curate`` open it: quietly, for this machine alone.

Whoever reaches the App sees the pictures and may decide; it asks nobody for a name. FiftyOne itself
listens on all addresses inside a container, so that the address is always given to it.
"""

import contextlib
import os
from pathlib import Path
from typing import Any, Literal

from elf import listening
from elf.configuration.command_parser import CommandParser
from elf.errors import ElfError
from elf.listening import LOOPBACK


def fiftyone() -> Any:
    """Import FiftyOne, which asks the network nothing (its reports are off: see ``elf``).

    Raises:
        ElfError: If it is not installed.
    """
    os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")
    try:
        import fiftyone
    except ImportError:
        raise ElfError(
            "fiftyone is not installed: `pip install 'elf[curate]'`, or edit "
            "data/labels/decisions.jsonl by hand"
        ) from None
    return fiftyone


def add_options(parser: CommandParser, name: str) -> None:
    """Add the options of a review in the App.

    Args:
        parser: Of the command.
        name: Of its dataset, if nothing else is said.
    """
    parser.add_argument("--name", type=str, default=name, help="of FiftyOne's dataset")
    parser.add_argument("--port", type=int, default=5151, help="of the App")
    parser.add_argument(
        "--address",
        type=str,
        default=LOOPBACK,
        help="where the App listens; 0.0.0.0 lets whoever reaches the machine see and decide",
    )
    parser.add_argument(
        "--action",
        type=Literal["review", "open", "write"],
        default="review",
        help="open the App and write back when it is closed, or one of the two",
    )


def check_place(address: str, port: int) -> None:
    """Check that the App can listen there, before minutes of work.

    FiftyOne would join whatever App answers there already, another folder's or one without Elf's
    buttons.

    Raises:
        ElfError: If it cannot.
    """
    listening.check_place("address", address, port, "App", only_ipv4=True)


def new_dataset(name: str, labels: Path) -> Any:
    """Return an empty dataset that stays, in the place of one of that name.

    Args:
        name: Of it.
        labels: Folder of the labels that are decided about, which :func:`load_own` checks.
    """
    fo = fiftyone()
    if fo.dataset_exists(name):
        fo.delete_dataset(name)
    dataset = fo.Dataset(name, persistent=True)
    dataset.info = {"labels": str(labels.absolute())}
    return dataset


def set_sidebar(dataset: Any, groups: dict[str, tuple[str, ...]]) -> None:
    """Let the App's sidebar show fields in groups, all others in a closed one below."""
    shown = {path for paths in groups.values() for path in paths}
    other = [path for path in dataset.get_field_schema() if path not in shown]
    dataset.app_config.sidebar_groups = [
        fiftyone().SidebarGroupDocument(name=group, paths=list(paths), expanded=group in groups)
        for group, paths in (groups | {"file": tuple(other)}).items()
    ]


def load_own(command: str, name: str, labels: Path) -> Any:
    """Return the dataset of a review; none if it is nobody's, or an older version's.

    Raises:
        ElfError: If there is none, or it shows other pictures: their decisions belong elsewhere.
    """
    fo = fiftyone()
    if not fo.dataset_exists(name):
        raise ElfError(
            f"{command}: no dataset {name!r} to read back; open it by `elf {command}` first"
        )
    dataset = fo.load_dataset(name)
    if "elf_known" not in dataset.get_field_schema():
        return None
    shown = Path(dataset.info.get("labels", labels))
    if shown.resolve() != labels.resolve():
        raise ElfError(
            f"{command}: dataset {name!r} is a review of {shown} now, not of {labels}; give each "
            "review at the same time a --name (and a --port) of its own"
        )
    return dataset


def show_until_closed(dataset: Any, plugin: Path, address: str, port: int, buttons: str) -> None:
    """Show a dataset until its tab is closed, or Ctrl-C is pressed.

    Args:
        dataset: FiftyOne's.
        plugin: Folder of Elf's buttons.
        address: Where the App listens.
        port: Where the App listens.
        buttons: What to press, in words.
    """
    # the App's server, a process of its own, finds the buttons by it
    os.environ["FIFTYONE_PLUGINS_DIR"] = str(plugin)
    session = fiftyone().launch_app(dataset, port=port, address=address)
    if address not in (LOOPBACK, "localhost"):
        print(f"whoever reaches {address}:{port} sees the pictures and may decide")
    print(f"select pictures, or open one, and press {buttons}; close the tab to end")
    with contextlib.suppress(KeyboardInterrupt):
        session.wait()
