"""A language model of full size with random weights, and chats of realistic lengths for it.

Its tokenizer knows the words of Elf's drawn world alone; the vocabulary of the model is the real
one's, as its head is what costs.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_models import filled
from torch import nn

from elf.tiny.language import tokenizer

SIZES: dict[str, dict[str, Any]] = {
    # as Qwen/Qwen2.5-0.5B-Instruct
    "0.5b": {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
        "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "tie_word_embeddings": True, "max_position_embeddings": 32768,
    },
    # as HuggingFaceTB/SmolLM2-135M-Instruct
    "135m": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": True, "max_position_embeddings": 8192,
    },
    "tiny": {
        "vocab_size": 1024, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "tie_word_embeddings": True, "max_position_embeddings": 2048,
    },
}  # fmt: skip


def write_model(folder: Path, size: str, dtype: torch.dtype, device: torch.device | str) -> Path:
    """Write a model in transformers' layout.

    Args:
        folder: For it.
        size: One of ``SIZES``.
        dtype: Of its weights.
        device: Where they are drawn.
    """
    from accelerate import init_empty_weights
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tokenizer()
    ends = {"eos_token_id": made.eos_token_id, "pad_token_id": made.pad_token_id}
    with init_empty_weights(include_buffers=False):
        network: nn.Module = LlamaForCausalLM(LlamaConfig(**SIZES[size], **ends))
        network.tie_weights()  # type: ignore[operator]
    filled(network, dtype, device)
    network.tie_weights()  # type: ignore[operator]
    network.save_pretrained(folder)  # type: ignore[operator]
    made.save_pretrained(folder)
    return folder


def write_chats(path: Path, count: int, longest: int, seed: int = 0) -> Path:
    """Write chats whose lengths are log-normal, as those of instruction sets are.

    Half are shorter than about 190 tokens, one in ten is longer than about 600; a third to half of
    the tokens are the question's.

    Args:
        path: A .jsonl file.
        count: Chats.
        longest: Tokens of the longest, about.
        seed: Of all of it.
    """
    random = np.random.default_rng(seed)
    words = np.array([w for w in tokenizer().get_vocab() if w.startswith("Ġ") and w[1:].isalpha()])
    words = np.array(sorted(word[1:] for word in words))
    sizes = np.clip(np.exp(random.normal(np.log(190), 0.9, count)), 24, longest - 24).astype(int)
    with path.open("w") as file:
        for number, size in enumerate(sizes.tolist()):
            asked = int(size * random.uniform(0.3, 0.5))
            drawn = random.choice(words, size)
            turns = (
                ("user", f"{number} " + " ".join(drawn[:asked])),
                ("assistant", " ".join(drawn[asked:])),
            )
            messages = [{"role": role, "content": content} for role, content in turns]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path
