"""GPT-2's layers keep their weights transposed; an adapter wants them as all others have them."""

import torch
from torch import nn

MARK = "was_transposed"
"""An attribute of the linear layers that stand in for such layers."""


def straighten(model: nn.Module) -> None:
    """Put linear layers into the places of a model's ``Conv1D``, in place."""
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if isinstance(module, Conv1D):
            wide, out = module.weight.shape
            with torch.device("meta"):
                linear = nn.Linear(wide, out)
            linear.weight = nn.Parameter(module.weight.detach().T.contiguous(), False)
            linear.bias = nn.Parameter(module.bias.detach(), False)
            setattr(linear, MARK, True)
            model.set_submodule(name, linear.train(module.training))


def transpose_again(model: nn.Module) -> None:
    """Put what `straighten` took out back, with the weights as they are now."""
    from transformers.pytorch_utils import Conv1D

    for name, module in list(model.named_modules()):
        if getattr(module, MARK, False):
            assert isinstance(module, nn.Linear)
            with torch.device("meta"):
                layer = Conv1D(module.out_features, module.in_features)
            layer.weight = nn.Parameter(module.weight.detach().T.contiguous(), False)
            layer.bias = nn.Parameter(module.bias.detach(), False)
            model.set_submodule(name, layer)
