"""The hub: what of it is on this machine, and whether it can be reached."""

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from elf.doctor.finding import Finding, broken, first_line, good, note
from elf.doctor.needs import Needs

HUB = "https://huggingface.co"
SECONDS = 5.0
"""That the hub may take; resolving its name may take longer, up to the check's own limit."""
FETCH = "where there is a network: hf download OWNER/NAME --local-dir FOLDER, then name the folder"


def check(_: Needs) -> list[Finding]:
    """Look into the cache, and ask the hub for its first page unless that is forbidden."""
    models = cached_models(cache_folder())
    offline = is_offline(os.environ)
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    return [judge(models, offline, "" if offline else reach(endpoint), endpoint)]


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return where the hub client keeps what it fetches."""
    if named := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    home = environment.get("HF_HOME") or f"{base}/huggingface"
    return Path(home).expanduser() / "hub"


def cached_models(folder: Path) -> list[str]:
    """Return the hub names of the models in a cache of which a version is there."""
    found = [each.parent for each in folder.glob("models--*/snapshots") if any(each.iterdir())]
    return sorted(each.name.removeprefix("models--").replace("--", "/") for each in found)


def is_offline(environment: Mapping[str, str]) -> bool:
    """Whether the hub client is told to stay off the network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environment.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def reach(endpoint: str, seconds: float = SECONDS) -> str:
    """Ask a hub for its first page; return what was said if it does not answer."""
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=seconds).close()
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}" if error.code >= 500 else ""  # it is there
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    except (OSError, ValueError) as error:
        return first_line(getattr(error, "reason", error))
    return ""


def judge(models: list[str], offline: bool, reason: str, endpoint: str) -> Finding:
    """Say what of the hub there is.

    Args:
        models: In the cache.
        offline: Whether the network is forbidden.
        reason: What was said if the hub does not answer.
        endpoint: Where it is.
    """
    facts = {"endpoint": endpoint, "offline": offline, "cached": models}
    there = f"{len(models)} models in the cache"
    if offline:
        return good("hub", f"off by HF_HUB_OFFLINE; {there}", reachable=None, **facts)
    if not endpoint.startswith(("http://", "https://")):
        do = "HF_ENDPOINT must be a URL, or unset"
        return broken("hub", f"HF_ENDPOINT is {endpoint!r}", do, reachable=False, **facts)
    if reason:
        said = f"{endpoint} cannot be reached ({reason}); {there}"
        return note("hub", said, FETCH, reachable=False, **facts)
    return good("hub", f"{endpoint} answers; {there}", reachable=True, **facts)
