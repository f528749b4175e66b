"""The language model in training and its errors on a batch: tensors in, tensors out.

Shapes: B rows, L tokens of a row, N = B · L, D width, V words.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elf import adapters
from elf.adapters import AdapterConfig, Injected
from elf.adapters.presets import LANGUAGE_MODEL
from elf.autocasting import without_autocast
from elf.errors import ElfError
from elf.language.attention import block_mask
from elf.language.base import LanguageBase
from elf.language.loss import IGNORED, errors_of_logits, token_errors
from elf.quantized import Kind, quantize, refuse_missing
from elf.training.adapted import AdaptedNetworks
from elf.training.recomputing import checkpoint_activations

SCALED_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Of configurations whose model does more than multiply by its head."""

Batch = Mapping[str, Any]


class TokenErrors(NamedTuple):
    """What a model makes of a batch's labels.

    Attributes:
        errors: (B, L) −log p; 0 where nothing is trained.
        correct: (B, L) whether no other word is likelier.
        trained: (B, L) which count.
    """

    errors: Tensor
    correct: Tensor
    trained: Tensor


class LanguageNetwork(AdaptedNetworks):
    """A causal language model, the adapter in it.

    Args:
        model: Of transformers.
        varlen: Whether its attention takes the borders of packed documents; else a mask says them.

    Attributes:
        accuracy: The share of tokens of the last training batch that were the likeliest.
    """

    accuracy: Tensor

    def __init__(self, model: nn.Module, varlen: bool = False) -> None:
        super().__init__()
        self.model = model
        self.varlen = varlen
        self.register_buffer("accuracy", torch.zeros(()), persistent=False)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The model, under the name that its adapter's tensors have in front."""
        return {LANGUAGE_MODEL: self.model}

    def errors(self, batch: Batch) -> TokenErrors:
        """Return the errors of a batch's labels.

        Args:
            batch: ``tokens`` (B, L) and ``labels`` (B, L), the word that follows each or
                ``IGNORED``; of packed rows also ``positions`` and ``documents`` (B, L), and
                ``borders`` (documents + 1,) where each begins in all rows together.
        """
        tokens, labels = batch["tokens"], batch["labels"]
        inputs = self.inputs(batch)
        # use_cache: with a cache packed documents see each other (transformers 5)
        with without_autocast(tokens.device):
            errors, correct = self._likelihood(inputs, labels.flatten())
        return TokenErrors(errors.view_as(labels), correct.view_as(labels), labels != IGNORED)

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return what the model is given; of packed rows also what keeps documents apart."""
        tokens = batch["tokens"]
        if "positions" not in batch:
            return {"input_ids": tokens}
        return {"input_ids": tokens} | self._packed(batch)

    def _packed(self, batch: Batch) -> dict[str, Any]:
        tokens, positions = batch["tokens"], batch["positions"]
        if not self.varlen:
            mask = block_mask(batch["documents"])
            model: Any = self.model
            if model.config._attn_implementation == "eager":  # which adds it to the products
                mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill_(
                    ~mask, torch.finfo(model.dtype).min
                )
            return {"attention_mask": mask, "position_ids": positions}
        longest = tokens.shape[1]
        return {
            "input_ids": tokens.reshape(1, -1),
            "position_ids": positions.reshape(1, -1),
            "cu_seq_lens_q": batch["borders"],
            "max_length_q": longest,
        }

    def _likelihood(self, inputs: Mapping[str, Any], labels: Tensor) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        head = model.get_output_embeddings()
        config = model.config.get_text_config()
        scaled = any(getattr(config, key, None) is not None for key in SCALED_LOGITS)
        if type(head) is nn.Linear and head.bias is None and not scaled:
            states = model.base_model(**inputs, use_cache=False).last_hidden_state
            return token_errors(states.flatten(0, 1), head.weight, labels)
        logits = model(**inputs, use_cache=False).logits
        return errors_of_logits(logits.flatten(0, 1), labels)

    def training_errors(self, batch: Batch) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """Return each row's mean error a token, and its share of the step's.

        Each token counts the same, in whichever row, micro-batch or process it is: the mean of
        means would give those of short rows more (its gradients are far off).

        Args:
            batch: Also with ``token_weight`` (B,): what a sum of errors is multiplied by so that
                the mean over rows, micro-batches and processes is the mean over tokens.
        """
        found = self.errors(batch)
        sums, counts = found.errors.sum(1), found.trained.sum(1)
        with torch.no_grad():
            self.accuracy.copy_(found.correct.sum() / counts.sum().clamp(min=1))
        return sums / counts.clamp(min=1), sums * batch["token_weight"]


class BuiltLanguage(NamedTuple):
    """What ``build_language`` returns.

    Attributes:
        network: With a new adapter.
        injected: What is trained.
    """

    network: LanguageNetwork
    injected: dict[str, Injected]


def build_language(
    base: LanguageBase,
    adapter: AdapterConfig,
    dtype: torch.dtype = torch.float32,
    gradient_checkpointing: bool = False,
    quantization: Kind | None = None,
    device: torch.device | None = None,
    varlen: bool = False,
) -> BuiltLanguage:
    """Load a language model, freeze it, and put a new adapter into it.

    Args:
        base: The base.
        adapter: What is trained.
        dtype: Of the frozen weights; the adapter is in float32.
        gradient_checkpointing: Whether to recompute activations in the backward pass.
        quantization: How its linear layers are kept, but for the head; None leaves them.
        device: Where they are quantised, one after the other.
        varlen: Let its attention take the borders of packed documents.

    Raises:
        ElfError: If the options do not suit the base.
    """
    refuse_missing(quantization)
    if adapter.text_targets is not None:
        raise ElfError(
            "model.adapter.text_targets: a language model has no text encoders; name its layers in "
            "model.adapter.targets"
        )
    varlen = varlen and base.takes_sdpa
    model = base.network(dtype, packed=varlen)
    if quantization is not None:
        head = model.get_output_embeddings()  # type: ignore[operator]
        quantize(model, quantization, device, skip=[head])
    injected = adapters.inject(model, adapter, LANGUAGE_MODEL)
    model.train()  # from_pretrained leaves it in eval mode: no adapter dropout
    if gradient_checkpointing:
        checkpoint_activations(model)
    return BuiltLanguage(LanguageNetwork(model, varlen), {LANGUAGE_MODEL: injected})
