"""Fuzzes a target, guided by coverage: `python tests/fuzzing/run.py pictures --minutes 10`.

Needs `pip install -e '.[fuzz]'`. What is found is written as a file beside the corpus, and said;
`--replay FILE` shows it again. Runs by the number of inputs (`--inputs`) with one `--seed` are the
same wherever the versions are.
"""

import argparse
import hashlib
import importlib
import os
import random
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Check = Callable[[bytes], None]
FOUND = "found: "

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from targets import TARGETS  # noqa: E402


def load(name: str) -> Any:
    """Return a target's module, of which the fuzzer sees the branches that are taken."""
    import atheris

    guided = ["elf", "targets", *read_by(name)]
    with atheris.instrument_imports(include=guided, enable_loader_override=False):
        return importlib.import_module(f"targets.{name}")


def read_by(name: str) -> list[str]:
    """Return the packages beside Elf whose code guides a target, unread beyond that."""
    lines = (HERE / "targets" / f"{name}.py").read_text().splitlines()
    found = next((line for line in lines if line.startswith("READ_BY = ")), "READ_BY = ")
    return found.partition("=")[2].replace(",", " ").replace('"', "").strip("() ").split()


def quiet() -> None:
    """Let warnings be as Elf's readers have them; progress bars and notes are not looked at."""
    from PIL import Image

    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")


def fuzz(options: argparse.Namespace) -> None:
    """Run the fuzzer; it ends the process."""
    import atheris

    module = load(options.target)
    from oracle import measured

    quiet()
    corpus = Path(options.corpus or tempfile.mkdtemp(prefix=f"fuzz-{options.target}-")).resolve()
    quick = Path("/dev/shm")  # each input is written as a file, and some are synced
    work = Path(
        tempfile.mkdtemp(prefix=f"fuzz-{options.target}-", dir=quick if quick.is_dir() else None)
    )

    for left in corpus.glob("found-*"):  # of an earlier run
        left.unlink()
    (corpus / "inputs").mkdir(parents=True, exist_ok=True)
    os.chdir(work)
    getattr(module, "hurry", lambda: None)()
    check = module.target(work)
    with atheris.instrument_imports(include=["elf", *read_by(options.target)]):
        for number, seed in enumerate(module.seeds(work)):
            (corpus / "inputs" / f"seed-{number:03}").write_bytes(seed)
            check(seed)  # imports whatever is imported late
    words = corpus / "words"
    words.write_text("".join(f'"{escaped(word)}"\n' for word in getattr(module, "WORDS", ())))
    arguments = [
        sys.argv[0],
        str(corpus / "inputs"),
        f"-dict={words}",
        f"-artifact_prefix={corpus}/found-",
        f"-seed={options.seed}",
        f"-max_len={getattr(module, 'LONGEST', 1 << 14)}",
        "-timeout=60",
        "-rss_limit_mb=6000",
        "-print_final_stats=1",
    ]
    if options.inputs:
        arguments.append(f"-runs={options.inputs}")
    elif options.minutes:
        arguments.append(f"-max_total_time={round(options.minutes * 60)}")
    own = getattr(module, "mutate", None)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        draw = random.Random(seed)
        if draw.random() < 0.5:
            return atheris.Mutate(data, most)
        made: bytes = own(data, draw)
        return made[:most]

    print(f"{options.target}: the corpus is {corpus}", flush=True)
    findings = Findings(measured(check), corpus)
    atheris.Setup(arguments, findings, **({"custom_mutator": mutate} if own else {}))
    atheris.Fuzz()


class Findings:
    """Gives inputs to a check; keeps the first of each place at which it fails, and goes on.

    Args:
        check: Of one input.
        folder: Where inputs that fail are written.
    """

    def __init__(self, check: Check, folder: Path) -> None:
        self._check, self._folder = check, folder
        self._places: set[str] = set()

    def __call__(self, data: bytes) -> None:
        """Give it one input."""
        try:
            self._check(data)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if "/elf/" in frame.filename] or frames
            place = f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"
            if place in self._places:
                return
            self._places.add(place)
            path = self._folder / f"found-{hashlib.sha256(place.encode()).hexdigest()[:8]}"
            path.write_bytes(data)
            said = " ".join(str(error).split())[:200]
            print(f"{FOUND}{place}: {said} ({path})", flush=True)


def escaped(word: bytes) -> str:
    """Return a word as it stands in libFuzzer's dictionaries."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def replay(name: str, path: Path) -> None:
    """Give one input to a target, without the fuzzer."""
    from oracle import measured

    module = importlib.import_module(f"targets.{name}")
    quiet()
    path = path.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        measured(module.target(Path(folder)))(path.read_bytes())
    print(f"{path}: taken, or refused in one line")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--inputs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", help="a folder that is kept and grown; a new one if left out")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="an input that was found")
    options = parser.parse_args()
    if not (options.replay or options.inputs or options.minutes):
        parser.error("say for how long: --minutes, or --inputs")
    if options.replay:
        replay(options.target, options.replay)
    else:
        fuzz(options)


if __name__ == "__main__":
    main()
