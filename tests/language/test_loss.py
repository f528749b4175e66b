"""The likelihood of tokens is what PyTorch's cross-entropy says, in values and gradients."""

import pytest
import torch
from torch.nn import functional

from elf.language import loss
from elf.language.loss import IGNORED, errors_of_logits, token_errors


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 16, generator=draw, dtype=torch.float64).requires_grad_()
    weight = torch.randn(50, 16, generator=draw, dtype=torch.float64)
    labels = torch.randint(0, 50, (37,), generator=draw)
    labels[::5] = IGNORED
    return hidden, weight, labels


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_values_and_gradients(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "CHUNK", at_once * 50)
    hidden, weight, labels = draws()
    factors = torch.linspace(0.5, 2, 37, dtype=torch.float64)
    logits = hidden @ weight.T
    expected = functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    (wanted,) = torch.autograd.grad((expected * factors).sum(), hidden)
    for errors, correct in (token_errors(hidden, weight, labels), errors_of_logits(logits, labels)):
        torch.testing.assert_close(errors.double(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(correct, (logits.argmax(1) == labels) & (labels != IGNORED))
    errors, _ = token_errors(hidden, weight, labels)
    (found,) = torch.autograd.grad((errors * factors).sum(), hidden)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)  # errors are float32


def test_in_evaluation_no_gradient_is_kept() -> None:
    hidden, weight, labels = draws()
    with torch.no_grad():
        errors, _ = token_errors(hidden, weight, labels)
    assert not errors.requires_grad


def test_a_model_with_a_head_of_another_form_has_the_same_errors() -> None:
    """Gemma's logits go through a tanh, which multiplying by the head leaves out."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    from elf.language.network import LanguageNetwork

    config = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=16, final_logit_softcapping=1.0,
        sliding_window=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(config).eval().requires_grad_(False)
    tokens = torch.randint(0, 64, (2, 12))
    labels = torch.cat([tokens[:, 1:], torch.full((2, 1), IGNORED)], dim=1)
    found = LanguageNetwork(model).errors({"tokens": tokens, "labels": labels})
    logits = model(input_ids=tokens, use_cache=False).logits
    expected = functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", ignore_index=IGNORED
    )
    torch.testing.assert_close(found.errors.flatten(), expected, rtol=1e-5, atol=1e-6)
