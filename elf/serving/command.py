"""``elf serve``: the page and its API, safe as they start: for this machine, or behind a word."""

import atexit
import ipaddress
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch

from elf import __version__
from elf.bases import open_base
from elf.command_parser import CommandParser
from elf.errors import ElfError
from elf.serving.catalog import find
from elf.serving.engine import Engine
from elf.serving.request import Limits, Request

Precision = Literal["auto", "float16", "bfloat16", "float32"]
LARGEST_UPLOAD = "1mb"
"""The page takes no files; Gradio has a way for some all the same."""


def main(arguments: list[str]) -> None:
    """``elf serve --config configs/serve/gradio.yaml``."""
    server = start(make_parser().read(arguments))
    server.block_thread()


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("serve", "Show a page, and an API, to try adapters.")
    add = parser.add_argument
    add("--base", type=str, required=True, help="hub name, folder or .safetensors file")
    add("--adapters", type=str, required=True, help="folder of adapters: files and runs")
    add("--triggers", type=dict[str, str], default={}, help="words that call adapters up")
    add("--prediction_type", type=str, default=None, help="of the base; null leaves it to the base")
    add("--zero_terminal_snr", type=bool, default=None, help="of the base; null likewise")
    add("--clip_skip", type=int, default=None, help="of the base; null likewise")
    add("--base_configs", type=str, default=None, help="for a single file of unusual networks")
    add("--caption_tokens", type=int, default=75, help="75, 150 or 225")
    add("--device", type=str, default="auto", help="cpu, cuda, cuda:1 … or auto")
    add("--precision", type=Precision, default="auto", help="float16 on a GPU, else float32")
    add("--host", type=str, default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=7860, help="port to listen on; 0 takes any")
    add("--auth", type=str, default=None, help="user:password; needed off this machine")
    add("--queue", type=int, default=32, help="requests that may wait; more are refused")
    add("--largest_side", type=int, default=1536, help="of a picture, px")
    add("--title", type=str, default="Elf", help="over the page")
    add("--prompt", type=str, default="", help="in the page's field at first")
    add("--examples", type=list[str], default=[], help="prompts to begin with")
    add("--width", type=int, default=512, help="of pictures at first, px")
    add("--height", type=int, default=512, help="of pictures at first, px")
    add("--steps", type=int, default=30, help="at first")
    add("--guidance", type=float, default=7.5, help="at first")
    return parser


def start(options: Any) -> Any:
    """Load the base and the adapters, and start to listen.

    Args:
        options: The command's.

    Returns:
        Gradio's blocks, which listen in a thread of their own; ``close()`` ends it.

    Raises:
        ElfError: If the address is not this machine's and no word is asked for; if there is no
            such base or folder, or a value makes no sense.
    """
    auth = _auth(options.auth)
    if auth is None and not is_loopback(options.host):
        raise ElfError(
            f"host: {options.host} can be reached by others; set --auth user:password, or take "
            "127.0.0.1"
        )
    if options.queue < 1:
        raise ElfError(f"queue: {options.queue} is none; take 1 or more")
    limits = Limits(options.largest_side)
    first = Request(
        options.prompt, steps=options.steps, guidance=options.guidance, width=options.width,
        height=options.height,
    )  # fmt: skip
    first.checked(limits)
    device = _device(options.device)
    base = open_base(
        options.base, options.prediction_type, options.zero_terminal_snr, options.clip_skip,
        options.base_configs, options.caption_tokens,
    )  # fmt: skip
    served, refused = find(Path(options.adapters), options.triggers, base)
    for line in refused:
        print(line)
    names = ", ".join(each.name for each in served) or "no adapter, the base alone"
    print(f"served on {device}: {names}")
    dtype = _dtype(options.precision, device)
    engine = Engine(base, served, device, dtype, limits)
    return listen(engine, options, first, auth)


def listen(engine: Engine, options: Any, first: Request, auth: tuple[str, str] | None) -> Any:
    """Return the blocks, listening."""
    from starlette.requests import Request as HTTPRequest
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    try:
        from elf.serving.page import CSS, build
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ElfError("serve: the page needs Gradio: pip install -e '.[serve]'") from None

    folder = tempfile.TemporaryDirectory(prefix="elf-serve-")
    atexit.register(folder.cleanup)
    blocks = build(engine, Path(folder.name), options.title, first, options.examples)

    def health(_: HTTPRequest) -> JSONResponse:
        return JSONResponse(
            {"status": "ok", "version": __version__, "adapters": list(engine.served)}
        )

    blocks.queue(max_size=options.queue, default_concurrency_limit=1, api_open=False)
    _, url, _ = blocks.launch(
        server_name=options.host,
        server_port=options.port or None,
        auth=auth,
        css=CSS,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        show_error=False,  # Elf's own messages are shown all the same, and nothing else
        strict_cors=True,
        enable_monitoring=False,
        max_file_size=LARGEST_UPLOAD,
        ssr_mode=False,
        quiet=True,
        app_kwargs={"routes": [Route("/health", health)]},
    )
    print(f"listening on {url}; Ctrl-C ends it", flush=True)
    return blocks


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _auth(given: str | None) -> tuple[str, str] | None:
    if given is None:
        return None
    user, colon, password = given.partition(":")
    if not (user and colon and password):
        raise ElfError("auth: not of the form user:password")
    return user, password


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ElfError(f"device: {name!r} is none; take cpu, cuda or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ElfError(f"device: there is no {name} here; take cpu or auto")
    return device


def _dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision == "auto":
        precision = "float16" if device.type == "cuda" else "float32"
    if precision == "float16" and device.type == "cpu":
        raise ElfError("precision: float16 needs a GPU; take float32 or auto")
    found: torch.dtype = getattr(torch, precision)
    return found
