"""NVIDIA's driver, asked without CUDA and without torch."""

import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

LOADED = "/proc/driver/nvidia/version"
"""What Linux says of the driver that it has loaded."""

OLDEST = {11: 450, 12: 525, 13: 580}
"""The oldest driver for each CUDA (https://docs.nvidia.com/deploy/cuda-compatibility)."""


class Driver(NamedTuple):
    """What is known of the driver.

    Attributes:
        version: As 580.65.06; None if none answers.
        error: What its own tool says if it is installed and does not work; else empty.
    """

    version: str | None
    error: str

    @property
    def there(self) -> bool:
        """Whether this machine is meant to have a GPU of NVIDIA's."""
        return self.version is not None or bool(self.error)


def loaded_version(path: str = LOADED) -> str | None:
    """Return the version of the driver that Linux has loaded; None elsewhere."""
    with contextlib.suppress(OSError):
        text = Path(path).read_text("utf-8", errors="replace")
        if found := re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", text):
            return found[1]
    return None


def ask_driver(loaded: str = LOADED, timeout: float = 15) -> Driver:
    """Ask ``nvidia-smi``, which stands beside the driver on Linux, Windows and WSL.

    Args:
        loaded: Where Linux says what it has loaded.
        timeout: Seconds that it may take; a driver that hangs does not answer.
    """
    program = shutil.which("nvidia-smi")
    version = loaded_version(loaded)
    if program is None:
        return Driver(version, "")
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, encoding="utf-8", errors="replace",
            timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Driver(version, f"nvidia-smi does not answer within {timeout:g} s")
    except OSError as error:
        return Driver(version, f"nvidia-smi cannot be run ({error.strerror or error})")
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode or not lines:
        return Driver(version, lines[0] if lines else f"nvidia-smi ends with {done.returncode}")
    return Driver(version or lines[0], "")
