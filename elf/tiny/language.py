"""The tiny language: a Llama in miniature that chats about the drawn world."""

import re
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from elf.tiny.store import save_half, seeded
from elf.world.sights import BEGINNINGS, ENDINGS, NAMES
from elf.world.talk import GREETINGS, GUIDE
from elf.world.tasks import TASKS

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH = 128
CONTEXT = 512
"""The most tokens that a chat may have."""

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
"""ChatML's marks of a turn, and what fills a batch up."""

TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- message['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""ChatML; what the assistant says, its end included, is marked as generated."""


def words() -> list[str]:
    """Every word of the chats, with the space before it if there is one; names as syllables."""
    random = Random(0)
    texts = [GUIDE, *(text for turn in GREETINGS for text in (turn.question, turn.answer))]
    for name, task in TASKS.items():
        for turn in (turn for _ in range(200) for turn in task(random)):
            # Other tongues are made of these words and of the syllables of names.
            texts += [turn.question] if name == "say" else [turn.question, turn.answer]
    read = {
        "user",
        "assistant",
        "system",
        "Hear",
        *BEGINNINGS,
        *(f" {name}" for name in BEGINNINGS),
    }
    read.update(word for text in texts for word in re.findall(r" ?[A-Za-z]+", text))
    # Often, so that they are merged first: they are then whole at the end of any word.
    return [*sorted(word for word in read if word.strip() not in NAMES), *ENDINGS * 50]


def tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level BPE tokenizer in which every word of the chats is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        words(),
        trainers.BpeTrainer(
            vocab_size=1024,
            show_progress=False,
            special_tokens=[PAD, START, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    made.chat_template = TEMPLATE
    return made


def model(tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """Llama of four layers; two query heads share a key head, and the embeddings are tied."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    special = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=5 * WIDTH // 2,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            **special,
        )
    )
    language.generation_config = GenerationConfig(max_new_tokens=64, do_sample=False, **special)
    return language


def save(
    language: "LlamaForCausalLM", tokenizer: "PreTrainedTokenizerFast", folder: str | Path
) -> Path:
    """Write model and tokenizer with half-precision weights."""
    save_half(language, folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def build(folder: str | Path, seed: int = 0) -> Path:
    """Write an untrained language model."""
    tokens = tokenizer()
    with seeded(seed):
        return save(model(tokens), tokens, folder)
