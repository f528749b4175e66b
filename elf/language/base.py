"""A causal language model to be adapted: a folder, a hub name, or a GGUF file."""

import hashlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elf.errors import ElfError
from elf.files import sha256_file
from elf.language.attention import PACKED
from elf.language.transposed import straighten
from elf.pretrained import (
    expanded,
    is_local,
    load,
    model_folder,
    quiet_libraries,
    refuse_too_many_layers,
)
from elf.resources import find

WHAT = "base model"
CONFIGS = ("config.json",)
BESIDE = ("*.json", "*.jinja", "tokenizer*", "*.txt", "*.model")
"""What is downloaded with the weights: tokenizer, template, configurations."""


class LanguageBase:
    """A model of any class that transformers' ``AutoModelForCausalLM`` knows.

    Weights are read from safetensors or GGUF alone, and no code of the model's own is run: what a
    stranger wrote could do anything.

    Args:
        name: A folder, a hub name ``owner/name``, or a ``.gguf`` file.

    Raises:
        ElfError: If it is missing, or no causal language model.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        path = expanded(find(name))
        self.gguf: str | None = None
        if path.suffix.lower() == ".gguf":
            if not path.is_file():
                raise ElfError(f"{WHAT}: no file {name}; give a file, a folder or a hub name")
            if importlib.util.find_spec("gguf") is None:
                raise ElfError(f"{WHAT}: {name} needs gguf: pip install 'elf[gguf]'")
            self.where, self.gguf = path.parent, path.name
        else:
            if is_local(find(name)):  # its folder has no config.json, which would be missed first
                self._refuse_pictures(expanded(find(name)))
            self.where = model_folder(name, WHAT, CONFIGS, BESIDE)
            self._refuse_pictures(self.where)
        self._refuse_others()

    def _refuse_pictures(self, folder: Path) -> None:
        if (folder / "model_index.json").is_file():
            raise ElfError(
                f"{WHAT}: {self.name} makes pictures; train it with DiffusionModule, or name a "
                "language model"
            )

    def _refuse_others(self) -> None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if self.kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise ElfError(
                f"{WHAT}: {self.name} is of the kind {self.kind}, which is no causal language "
                "model that transformers knows"
            )

    @property
    def _options(self) -> dict[str, Any]:
        gguf = {} if self.gguf is None else {"gguf_file": self.gguf}
        return {"trust_remote_code": False, **gguf}

    @cached_property
    def config(self) -> Any:
        """The model's configuration."""
        from transformers import AutoConfig

        return load(AutoConfig.from_pretrained, self.where, WHAT, **self._options)

    @property
    def kind(self) -> str:
        """What transformers calls its architecture, such as ``llama``."""
        return str(self.config.model_type)

    @property
    def context(self) -> int | None:
        """Tokens that it was made for, if it says so."""
        found = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return None if found is None else int(found)

    @property
    def window(self) -> int | None:
        """Tokens that its attention sees at most, if some of its layers do not see all."""
        found = getattr(self.config.get_text_config(), "sliding_window", None)
        return None if found is None else int(found)

    @property
    def takes_sdpa(self) -> bool:
        """Whether its attention is the usual one; Gemma 2's, say, has a tanh in it."""
        from transformers import AutoModelForCausalLM

        cls: Any = AutoModelForCausalLM._model_mapping[type(self.config)]
        return bool(getattr(cls, "_supports_sdpa", False))

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        from transformers import AutoTokenizer

        return load(
            AutoTokenizer.from_pretrained, self.where, f"{WHAT} (tokenizer)", **self._options
        )

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """The files of its weights.

        Raises:
            ElfError: If there are none, or only pickled ones.
        """
        if self.gguf is not None:
            return (self.where / self.gguf,)
        if not is_local(find(self.name)):
            self.where = model_folder(self.name, WHAT, ("*.safetensors",), BESIDE)
        found = tuple(sorted(self.where.glob("*.safetensors")))
        if not found:
            pickled = sorted([*self.where.glob("*.bin"), *self.where.glob("*.pt*")])
            reason = (
                f"only {pickled[0].name}, which is a pickle and can run code when it is read; take "
                "a version with safetensors"
                if pickled
                else "no safetensors file; is it the right folder?"
            )
            raise ElfError(f"{WHAT}: {self.where} has {reason}")
        return found

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of its weights; of several files, that of their hashes."""
        hashes = [sha256_file(path) for path in self.files]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def network(self, dtype: torch.dtype, packed: bool = False) -> nn.Module:
        """Load the model, in evaluation mode.

        Args:
            dtype: Of its weights.
            packed: Let its attention know the borders of packed documents on a GPU.

        Raises:
            ElfError: If its weights are damaged, or do not belong to its configuration.
        """
        from transformers import AutoModelForCausalLM

        _ = self.files  # refuses pickles
        if self.gguf is not None:
            refuse_too_many_layers(self.config.to_dict(), self.where / self.gguf, WHAT)
        options = self._options | ({} if self.gguf else {"use_safetensors": True})
        # Lightning builds networks on the GPU, which may have no room for one that is coded later
        with quiet_libraries(), torch.device("cpu"):
            model, info = load(
                AutoModelForCausalLM.from_pretrained,
                self.where,
                WHAT,
                dtype=dtype,
                attn_implementation=PACKED if packed else "sdpa" if self.takes_sdpa else "eager",
                output_loading_info=True,
                **options,
            )
        if missing := sorted(info["missing_keys"]):  # the library would go on with random ones
            raise ElfError(
                f"{WHAT}: {self.files[0]} has no {missing[0]} ({len(missing)} missing); it is cut "
                "down, or does not belong to its config.json"
            )
        network: nn.Module = model.eval()
        straighten(network)
        return network
