"""A frozen network with linear layers of 4 or 8 bit: less memory for what is not trained."""

from elf.quantized.codes import Kind
from elf.quantized.linear import QuantizedLinear, quantize, refuse_missing

__all__ = ["Kind", "QuantizedLinear", "quantize", "refuse_missing"]
