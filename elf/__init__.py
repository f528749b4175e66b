"""Elf: from a folder of pictures to a LoRA/DoRA adapter that is proven to be good."""

import logging
import os

__version__ = "0.1.0"

# These libraries would tell their makers how they are used, onnxruntime (1.31, on Linux too) from
# its import on. What is done with pictures is their owner's affair. What is set already stays.
for _name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "FIFTYONE_DO_NOT_TRACK"):
    os.environ.setdefault(_name, "1")
# W&B reports its own errors to its makers, offline runs' too; it takes a word for this.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
# On a CPU it says at its import, which peft does, that a kernel for 4 bit is missing.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
