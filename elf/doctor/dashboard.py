"""W&B: whether there is an account, and whether its key is taken."""

import base64
import json
import netrc
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from elf.doctor.finding import Finding, broken, first_line, good, note
from elf.doctor.needs import Needs
from elf.platforms import netrc_file

WANDB = "https://api.wandb.ai"
SECONDS = 5.0
LOGIN = "wandb login"


def check(_: Needs) -> list[Finding]:
    """Ask W&B whose key it is, unless there is none or the network is forbidden."""
    key = account_key(os.environ)
    quiet = os.environ.get("WANDB_MODE", "") in ("offline", "disabled")
    if key is None or quiet:
        return [judge(key is not None, quiet, None, "")]
    answer, reason = whose(key, os.environ.get("WANDB_BASE_URL") or WANDB)
    return [judge(True, False, answer, reason)]


def account_key(environment: Mapping[str, str]) -> str | None:
    """Return the key of the account that is set up; it is never shown."""
    if key := environment.get("WANDB_API_KEY"):
        return key
    path = netrc_file(environment)
    host = urlsplit(environment.get("WANDB_BASE_URL") or WANDB).hostname or ""
    try:
        entry = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return entry[2] if entry else None


def whose(key: str, server: str, seconds: float = SECONDS) -> tuple[bool | None, str]:
    """Return whether a server knows a key, None if it does not say; and what was said if not."""
    login = base64.b64encode(f"api:{key}".encode()).decode()
    request = urllib.request.Request(
        f"{server.rstrip('/')}/graphql",
        json.dumps({"query": "query { viewer { username } }"}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Basic {login}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=seconds) as response:
            content = json.loads(response.read(1 << 16))
    except urllib.error.HTTPError as error:
        return (False, "") if error.code in (401, 403) else (None, f"it answers {error.code}")
    except (OSError, ValueError) as error:
        return None, first_line(getattr(error, "reason", error))
    known = isinstance(content, dict) and (content.get("data") or {}).get("viewer")
    return bool(known), ""


def judge(account: bool, quiet: bool, known: bool | None, reason: str) -> Finding:
    """Say what of W&B there is.

    Args:
        account: Whether a key is set up.
        quiet: Whether WANDB_MODE keeps it off the network.
        known: Whether W&B knows the key; None if it was not asked or did not say.
        reason: What was said if it could not be asked.
    """
    facts = {"account": account, "quiet": quiet, "known": known}
    if quiet:
        return good("wandb", "runs stay on this machine, by WANDB_MODE", **facts)
    if not account:
        said = "no account; `--logger wandb` records runs on this machine alone"
        return note("wandb", said, LOGIN, **facts)
    if known is False:
        return broken("wandb", "it does not know your key", f"{LOGIN} --relogin", **facts)
    if known is None:
        said = f"an account; it could not be asked ({reason})"
        return note("wandb", said, "nothing: runs are recorded here and go on", **facts)
    return good("wandb", "an account, and its key is taken", **facts)
