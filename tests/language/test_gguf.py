"""Language models in GGUF files: those of their folders, or refused in a line."""

import json
import random
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from elf.errors import ElfError
from elf.language.base import LanguageBase
from elf.pretrained import quiet_libraries

FOLDER = Path("models/tiny/language")
PARTS = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
"""llama.cpp's names of a layer's parts."""


def for_llama_cpp(weight: Any, heads: int) -> Any:
    """Return a projection with pairs of rotated channels side by side, as llama.cpp has them."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(path: Path) -> None:
    """Write the small language model as llama.cpp's converter does."""
    config = json.loads((FOLDER / "config.json").read_text())
    tokenizer = json.loads((FOLDER / "tokenizer.json").read_text())
    heads, of_keys = config["num_attention_heads"], config["num_key_value_heads"]
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    tokens = {index: text for text, index in tokenizer["model"]["vocab"].items()} | special
    file = gguf.GGUFWriter(path, "llama")
    file.add_block_count(config["num_hidden_layers"])
    file.add_context_length(config["max_position_embeddings"])
    file.add_embedding_length(config["hidden_size"])
    file.add_feed_forward_length(config["intermediate_size"])
    file.add_head_count(heads)
    file.add_head_count_kv(of_keys)
    file.add_layer_norm_rms_eps(config["rms_norm_eps"])
    file.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    file.add_vocab_size(config["vocab_size"])
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("default")
    file.add_token_list([tokens[index] for index in range(config["vocab_size"])])
    file.add_token_types([3 if index in special else 1 for index in range(config["vocab_size"])])
    file.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    file.add_eos_token_id(config["eos_token_id"])
    file.add_pad_token_id(config["pad_token_id"])
    file.add_chat_template((FOLDER / "chat_template.jinja").read_text())
    for name, weight in load_file(FOLDER / "model.safetensors").items():
        weight = weight.astype(np.float32)
        if name == "model.embed_tokens.weight":
            name = "token_embd.weight"
        elif name == "model.norm.weight":
            name = "output_norm.weight"
        else:
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                weight = for_llama_cpp(weight, heads if "q_proj" in part else of_keys)
            name = f"blk.{layer}.{PARTS[part]}.weight"
        file.add_tensor(name, weight)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "elvish.gguf"
    write_gguf(path)
    return path


def test_a_file_gives_what_its_folder_gives(file: Path) -> None:
    mine, theirs = LanguageBase(str(file)), LanguageBase(str(FOLDER))
    assert (mine.kind, mine.context) == (theirs.kind, theirs.context)
    text = "What is the word for water? It's 12 °C, 水 & <b>"
    ids = mine.tokenizer(text)["input_ids"]
    assert ids == theirs.tokenizer(text)["input_ids"]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    said = [base.tokenizer.apply_chat_template(chat, tokenize=False) for base in (mine, theirs)]
    assert said[0] == said[1]
    tokens = torch.tensor([ids])
    with torch.no_grad():
        found = [base.network(torch.float32)(tokens).logits for base in (mine, theirs)]
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_a_million_layers_are_not_built(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    key = b"llama.block_count" + (4).to_bytes(4, "little")  # an unsigned int
    old, new = (key + layers.to_bytes(4, "little") for layers in (4, 2097156))
    assert file.read_bytes().count(old) == 1
    path.write_bytes(file.read_bytes().replace(old, new))
    message = f"base model: {path} has num_hidden_layers 2097156, more than any network; download"
    with pytest.raises(ElfError, match=re.escape(message)):
        LanguageBase(str(path)).network(torch.float32)


def damaged(whole: bytes, draw: random.Random) -> bytes:
    """Return a file whose header, names or values were changed."""
    data = bytearray(whole)
    header = whole.index(b"token_embd.weight") + 4000
    numbers = [2**32 - 1, 2**31, 2**62, 2**64 - 1, 10**7, 0]
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(draw.choice([200, header, len(data)])) % len(data)
        match draw.randrange(6):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at : at + 8] = draw.choice(numbers).to_bytes(8, "little")
            case 2:
                del data[at : at + draw.randrange(40)]
            case 3:
                data[at:at] = draw.randbytes(draw.randrange(9))
            case 4:
                del data[at + 1 :]
            case _:
                data[at : at + 4] = draw.randbytes(4)
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # of libraries, about values that are none
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("seed", "cases"), [(0, 40), pytest.param(1, 2_000, marks=pytest.mark.slow)]
)
def test_damage_is_read_or_refused_in_one_line(
    file: Path, seed: int, cases: int, tmp_path: Path
) -> None:
    whole, draw, refused = file.read_bytes(), random.Random(seed), 0
    path = tmp_path / "damaged.gguf"
    for _ in range(cases):
        path.write_bytes(damaged(whole, draw))
        try:
            base = LanguageBase(str(path))
            with quiet_libraries():
                assert base.tokenizer is not None
            base.network(torch.float32)
        except ElfError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > cases // 2
