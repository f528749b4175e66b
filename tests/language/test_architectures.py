"""Models of many classes: which layers a preset takes, and that what is trained exports."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate import init_empty_weights
from peft import PeftModel
from transformers import AutoModelForCausalLM

from elf.adapters import AdapterConfig
from elf.adapters.targets import target_names
from elf.errors import ElfError
from elf.export.language_form import write_merged_language
from elf.export.peft_form import export_peft
from elf.export.trained import read_trained
from elf.language.base import LanguageBase
from elf.language.network import LanguageNetwork
from elf.modules import LanguageModule
from elf.tiny.language import tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 700, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any], set[str], set[str]]] = {
    # class, configuration, ends of names in the attention, and of the others
    "llama": ("Llama", GROUPED, {"q_proj", "k_proj", "v_proj", "o_proj"},
              {"gate_proj", "up_proj", "down_proj"}),
    "qwen2": ("Qwen2", GROUPED, {"q_proj", "k_proj", "v_proj", "o_proj"},
              {"gate_proj", "up_proj", "down_proj"}),
    "qwen3": ("Qwen3", {**GROUPED, "head_dim": 8}, {"q_proj", "k_proj", "v_proj", "o_proj"},
              {"gate_proj", "up_proj", "down_proj"}),
    "gemma2": ("Gemma2", {**GROUPED, "head_dim": 8}, {"q_proj", "k_proj", "v_proj", "o_proj"},
               {"gate_proj", "up_proj", "down_proj"}),
    "phi3": ("Phi3", GROUPED, {"qkv_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
    "gpt_neox": ("GPTNeoX", SMALL, {"query_key_value", "dense"},
                 {"dense_h_to_4h", "dense_4h_to_h"}),
    "gpt2": ("GPT2", {"vocab_size": 700, "n_embd": 32, "n_layer": 2, "n_head": 4,
                      "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0},
             {"c_attn", "c_proj"}, {"c_fc", "c_proj"}),
    "olmo2": ("Olmo2", GROUPED, {"q_proj", "k_proj", "v_proj", "o_proj"},
              {"gate_proj", "up_proj", "down_proj"}),
}  # fmt: skip


def made(name: str) -> Any:
    kind, config, *_ = MODELS[name]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**config))


def written(name: str, folder: Path) -> Path:
    made(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(params=MODELS)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, written(request.param, tmp_path / request.param)


def module_of(base: Path, kind: Any = "lora") -> LanguageModule:
    module = LanguageModule(
        str(base), AdapterConfig(kind, rank=4, alpha=8, targets="attention+feedforward")
    )
    module.configure_model()
    draw = torch.Generator().manual_seed(0)
    state = module.state_dict()
    for key, tensor in state.items():
        if ".lora_B." in key:
            tensor.normal_(0, 0.2, generator=draw)
        elif "magnitude" in key:
            tensor.mul_(1 + 0.2 * torch.rand(tensor.shape, generator=draw))
    module.load_state_dict({key: tensor.clone() for key, tensor in state.items()})
    return module


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5, 30)[None], use_cache=False).logits
    return found


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21 asks
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")  # peft finds out of GPT-2
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_trained_layers_are_in_every_form(
    kind: str, base: tuple[str, Path], tmp_path: Path
) -> None:
    name, folder = base
    _, _, attention, others = MODELS[name]
    module = module_of(folder, kind)
    ends = {each.rpartition(".")[2] for each in module.injected["language_model"].values}
    assert ends == attention | others
    expected = logits(module.network.model.eval())
    content: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(content)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    torch.save(content, run / "checkpoints" / "last.ckpt")
    trained = read_trained(run)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert (logits(plain) - expected).abs().max() > 1e-2
    export_peft(trained, tmp_path / "peft", "float32")
    found = logits(PeftModel.from_pretrained(plain, tmp_path / "peft").eval())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    write_merged_language(trained, str(folder), tmp_path / "merged", "float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(logits(merged.eval()), expected, rtol=1e-4, atol=1e-4)


def test_its_errors_are_those_of_its_logits(base: tuple[str, Path]) -> None:
    """Whatever stands between the last state and the logits in its class."""
    _, folder = base
    model = LanguageBase(str(folder)).network(torch.float32)
    tokens = torch.randint(3, 600, (2, 20), generator=torch.Generator().manual_seed(0))
    labels = torch.cat([tokens[:, 1:], torch.full((2, 1), -100)], 1)
    with torch.no_grad():
        found = LanguageNetwork(model).errors({"tokens": tokens, "labels": labels}).errors
        expected = torch.nn.functional.cross_entropy(
            model(tokens, use_cache=False).logits.flatten(0, 1), labels.flatten(),
            reduction="none", ignore_index=-100,
        )  # fmt: skip
    torch.testing.assert_close(found.flatten(), expected, rtol=1e-5, atol=1e-5)


def test_packed_documents_do_not_see_each_other(base: tuple[str, Path]) -> None:
    _, folder = base
    network = LanguageNetwork(LanguageBase(str(folder)).network(torch.float32))
    tokens = torch.randint(3, 600, (1, 20), generator=torch.Generator().manual_seed(0))
    labels = torch.cat([tokens[:, 1:], torch.full((1, 1), -100)], 1)
    labels[0, 7] = -100
    positions = torch.cat([torch.arange(8), torch.arange(12)])[None]
    documents = (torch.arange(20) >= 8).long()[None]
    batch = {"tokens": tokens, "labels": labels, "positions": positions, "documents": documents}
    with torch.no_grad():
        packed = network.errors(batch).errors[:, 8:]
        alone = network.errors({"tokens": tokens[:, 8:], "labels": labels[:, 8:]}).errors
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_routers_of_experts_are_left_alone() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    with init_empty_weights():
        model = MixtralForCausalLM(MixtralConfig(**GROUPED, num_local_experts=2))
    config = AdapterConfig(rank=2, targets="attention")
    names = target_names(model, config, "language_model")
    assert {each.rpartition(".")[2] for each in names} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert not any("gate" in each for each in names)


def test_what_is_no_language_model_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    CLIPTextModel(CLIPTextConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                                 num_attention_heads=2)).save_pretrained(tmp_path)  # fmt: skip
    with pytest.raises(ElfError, match="is of the kind clip_text_model, which is no causal"):
        LanguageBase(str(tmp_path))
    with pytest.raises(ElfError, match="makes pictures; train it with DiffusionModule"):
        (tmp_path / "model_index.json").write_text("{}")
        LanguageBase(str(tmp_path))


@pytest.mark.fault(15)
def test_pickles_and_cut_weights_are_refused(tiny_language: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "base"
    shutil.copytree(tiny_language, folder)
    state = load_file(folder / "model.safetensors")
    name = sorted(key for key in state if "layers.1" in key)[0]
    save_file({k: v for k, v in state.items() if k != name}, folder / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(ElfError, match=f"has no {name} .1 missing.; it is cut down"):
        LanguageBase(str(folder)).network(torch.float32)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ElfError, match=r"only pytorch_model\.bin, which is a pickle and can run"):
        LanguageBase(str(folder)).network(torch.float32)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ElfError, match="has no safetensors file; is it the right folder"):
        LanguageBase(str(folder)).network(torch.float32)
