"""onnxruntime: a session is made and run, for what it lists as available may not work."""

from elf.doctor.finding import Finding, broken, first_line, good, note
from elf.doctor.needs import Needs
from elf.nvidia import ask_driver
from elf.onnxproviders import CUDA, execution_providers

FLOAT = 1
ADD_ITS_CUDA = "pip install --upgrade 'onnxruntime-gpu[cuda,cudnn]'"


def check(needs: Needs) -> list[Finding]:
    """Run a model of one sum where a tagger would run."""
    import numpy as np
    import onnxruntime

    on_gpu = ask_driver().there
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    got, right, reason = "", False, ""
    try:
        providers = execution_providers("cuda" if on_gpu else "cpu")
        session = onnxruntime.InferenceSession(doubling_model(), options, providers=providers)
        got = session.get_providers()[0]
        (result,) = session.run(None, {"x": np.arange(4, dtype=np.float32)})
        right = result.tolist() == [0, 2, 4, 6]
    except Exception as error:  # onnxruntime's own classes have no common base but this
        reason = first_line(error)
    listed = onnxruntime.get_available_providers()
    return [judge(onnxruntime.__version__, got, right, reason, listed, on_gpu, needs)]


def judge(
    version: str,
    got: str,
    right: bool,
    reason: str,
    listed: list[str],
    on_gpu: bool,
    needs: Needs,
) -> Finding:
    """Say whether onnxruntime works, and where.

    Args:
        version: Its.
        got: The execution provider that the session got.
        right: Whether the model's result was right.
        reason: What was said if it failed.
        listed: What onnxruntime lists as available.
        on_gpu: Whether there is a GPU for it.
        needs: What a config needs.
    """
    facts = {"version": version, "provider": got or None, "listed": listed}
    if not right:
        said = f"{version}: a session fails ({reason or 'a wrong result'})"
        name = "onnxruntime-gpu" if CUDA in listed else "onnxruntime"
        return broken("onnxruntime", said, f"pip install --force-reinstall {name}", **facts)
    if got == CUDA or not (on_gpu or needs.cuda_tagger):
        return good("onnxruntime", f"{version}, a session runs on {got}", **facts)
    said = f"{version}, a session runs on {got} although there is a GPU"
    if not on_gpu:
        said = f"{version}, a session runs on {got}; model.wd.provider asks for cuda"
        return broken("onnxruntime", said, "--model.wd.provider auto", **facts)
    if CUDA not in listed:
        said += ": this build knows no CUDA"
        do = "pip uninstall --yes onnxruntime, then pip install onnxruntime-gpu"
        state = broken if needs.cuda_tagger else note
        return state("onnxruntime", said, do, **facts)
    return broken("onnxruntime", f"{said}: it finds no CUDA that fits it", ADD_ITS_CUDA, **facts)


def doubling_model() -> bytes:
    """Return an ONNX file that adds a vector of four numbers to itself.

    The fields and their numbers are those of onnx.proto (https://github.com/onnx/onnx).
    """
    shape = _message(1, _number(1, 4))
    kind = _message(1, _number(1, FLOAT) + _message(2, shape))
    node = _message(1, b"x") + _message(1, b"x") + _message(2, b"y") + _message(4, b"Add")
    value_x, value_y = (_message(1, name) + _message(2, kind) for name in (b"x", b"y"))
    graph = (
        _message(1, node) + _message(2, b"doubling") + _message(11, value_x) + _message(12, value_y)
    )
    return _number(1, 8) + _message(7, graph) + _message(8, _number(2, 13))


def _message(field: int, content: bytes) -> bytes:
    """Return a field with its length in front; of at most 127 bytes, whose length takes one."""
    return bytes([field << 3 | 2, len(content)]) + content


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])
