"""``elf serve``: the page and its API, safe as they start: for this machine, or behind a word."""

import atexit
import importlib
import ipaddress
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch

from elf import __version__
from elf.bases import open_base
from elf.configuration.command_parser import CommandParser
from elf.errors import ElfError
from elf.language.detect import is_language_model
from elf.listening import check_place
from elf.quantized import Kind
from elf.serving.catalog import find
from elf.serving.engine import Engine
from elf.serving.request import Limits, Request

Precision = Literal["auto", "float16", "bfloat16", "float32"]
OF_PICTURES = (
    *("triggers", "prediction_type", "zero_terminal_snr", "clip_skip", "base_configs"),
    *("caption_tokens", "largest_side", "width", "height", "steps", "guidance"),
)
OF_TEXT = ("quantization", "longest_answer", "system", "temperature", "top_p", "max_tokens")
"""Options of the one kind of model alone, and of the other."""
LARGEST_UPLOAD = "1mb"
"""The page takes no files; Gradio has a way for some all the same."""


def main(arguments: list[str]) -> None:
    """``elf serve --config configs/serve/gradio.yaml``, or ``chat.yaml`` for a language model."""
    parser = make_parser()
    options = parser.read(arguments)
    allowed(options)  # before the hub is asked for the base
    refuse_others(options, parser)
    start(options).block_thread()


def make_parser() -> CommandParser:
    """Return the command's parser."""
    parser = CommandParser("serve", "Show a page, and an API, to try adapters.")
    add = parser.add_argument
    add("--base", type=str, required=True, help="hub name, folder, .safetensors or .gguf file")
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
    chat = parser.add_argument_group("of a language model").add_argument
    chat("--quantization", type=Kind | None, default=None, help="nf4 or int8; null in precision")
    chat("--longest_answer", type=int, default=1024, help="that may be asked for, tokens")
    chat("--system", type=str, default="", help="system prompt at first")
    chat("--temperature", type=float, default=0.7, help="at first; 0 takes the likeliest token")
    chat("--top_p", type=float, default=0.95, help="at first")
    chat("--max_tokens", type=int, default=256, help="of an answer at first")
    return parser


def refuse_others(options: Any, parser: CommandParser) -> None:
    """Refuse options that the base's kind of model does not have.

    Raises:
        ElfError: With the first that was given.
    """
    text = is_language_model(options.base)
    for name in OF_PICTURES if text else OF_TEXT:
        if getattr(options, name) != parser.get_default(name):
            kinds = ("pictures", "text") if text else ("text", "pictures")
            raise ElfError(
                f"{name}: is of models that make {kinds[0]}, and {options.base} makes {kinds[1]}; "
                "leave it out"
            )


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
    auth = allowed(options)
    if is_language_model(options.base):
        from elf.serving.chatcommand import start_chat

        return start_chat(options, auth)
    limits = Limits(options.largest_side)
    first = Request(
        options.prompt, steps=options.steps, guidance=options.guidance, width=options.width,
        height=options.height,
    )  # fmt: skip
    first.checked(limits)
    device = find_device(options.device)
    base = open_base(
        options.base, options.prediction_type, options.zero_terminal_snr, options.clip_skip,
        options.base_configs, options.caption_tokens,
    )  # fmt: skip
    served, refused = find(Path(options.adapters), options.triggers, base)
    tell(device, [each.name for each in served], refused)
    dtype = find_dtype(options.precision, device)
    engine = Engine(base, served, device, dtype, limits)

    def build(page: Any, folder: Path) -> Any:
        return page.build(engine, folder, options.title, first, options.examples)

    return listen("elf.serving.page", build, list(engine.served), options, auth)


def allowed(options: Any) -> tuple[str, str] | None:
    """Return who may ask; None is everybody on this machine.

    Raises:
        ElfError: If others could, too, or requests could not wait, or nothing can listen there.
    """
    auth = _auth(options.auth)
    if auth is None and not is_loopback(options.host):
        raise ElfError(
            f"host: {options.host} can be reached by others; set --auth user:password, or take "
            "127.0.0.1"
        )
    if options.queue < 1:
        raise ElfError(f"queue: {options.queue} is none; take 1 or more")
    check_place("host", options.host, options.port, "page", any_port=True)
    return auth


def tell(device: torch.device, served: list[str], refused: list[str]) -> None:
    """Say what is served, and why other things are not."""
    for line in refused:
        print(line)
    print(f"served on {device}: {', '.join(served) or 'no adapter, the base alone'}")


def listen(
    page: str,
    build: Callable[[Any, Path], Any],
    served: list[str],
    options: Any,
    auth: tuple[str, str] | None,
) -> Any:
    """Return a page's blocks, listening.

    Args:
        page: Its module, which needs Gradio.
        build: Makes the blocks with that module, and an empty folder for files that are given out.
        served: Names of the adapters.
        options: The command's.
        auth: User and password.

    Raises:
        ElfError: If Gradio is not installed.
    """
    from starlette.requests import Request as HTTPRequest
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    try:
        module = importlib.import_module(page)
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ElfError("serve: the page needs Gradio: pip install -e '.[serve]'") from None

    folder = tempfile.TemporaryDirectory(prefix="elf-serve-")
    atexit.register(folder.cleanup)
    blocks = build(module, Path(folder.name))

    def health(_: HTTPRequest) -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__, "adapters": served})

    blocks.queue(max_size=options.queue, default_concurrency_limit=1, api_open=False)
    _, url, _ = blocks.launch(
        server_name=options.host,
        server_port=options.port or None,
        auth=auth,
        css=getattr(module, "CSS", None),
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
        raise ElfError("auth: not of the form user:password; give both")
    return user, password


def find_device(name: str) -> torch.device:
    """Return the device of a name.

    Raises:
        ElfError: If there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ElfError(f"device: {name!r} is none; take cpu, cuda or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ElfError(f"device: there is no {name} here; take cpu or auto")
    return device


def find_dtype(
    precision: Precision, device: torch.device, on_gpu: Precision = "float16"
) -> torch.dtype:
    """Return the type of a precision.

    Raises:
        ElfError: If the device has none.
    """
    if precision == "auto":
        precision = on_gpu if device.type == "cuda" else "float32"
    if precision == "float16" and device.type == "cpu":
        raise ElfError("precision: float16 needs a GPU; take float32 or auto")
    found: torch.dtype = getattr(torch, precision)
    return found
