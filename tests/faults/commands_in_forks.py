"""Runs real `elf` commands, each in a fork: what they import is paid for once."""

import peft  # noqa: F401
import webdataset  # noqa: F401
from diffusers import AutoencoderKL  # noqa: F401
from forks import serve
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

from elf import cli
from elf.export import command  # noqa: F401
from elf.preparation import encoding, prepare  # noqa: F401

serve(cli.main)
