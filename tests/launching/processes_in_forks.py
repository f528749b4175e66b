"""Runs real `elf` commands in several processes, forks of this one: imports are paid for once.

A line of JSON on standard input is a job, a list of processes: arguments, environment, log. The
answer is how each ended, in the same order.
"""

import json
import os
import sys
import traceback

import lightning.pytorch
import webdataset
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from elf import cli
from elf.preparation import prepare  # noqa: F401

IMPORTED = (AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer, webdataset)


def run(process):
    log = os.open(process["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(process["environment"])
    lightning.pytorch.utilities.rank_zero_only.rank = process["rank"]  # as if imported only now
    try:
        cli.main(process["arguments"])
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


print("ready", flush=True)
for line in sys.stdin:
    children = []
    for process in json.loads(line):
        if not (child := os.fork()):
            run(process)
        children.append(child)
    print(json.dumps(children), flush=True)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
