"""The types of numbers that weights may have, in configurations and in files."""

from typing import Literal

DType = Literal["float16", "bfloat16", "float32"]
