"""Runs real `elf` commands, each in a fork: what they import is paid for once.

Started with the compiled ``failing_disk.c`` preloaded. A line of JSON on standard input is a job;
the answer is how it ended.
"""

import ctypes
import json
import os
import signal
import sys
import time
import traceback

import webdataset  # noqa: F401
from diffusers import AutoencoderKL  # noqa: F401
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

from elf import cli, encoding, prepare, rename, trainer  # noqa: F401

disk = ctypes.CDLL(None)


def run(job):
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if job["fault"]:
        disk.arm(job["below"].encode(), ord(job["fault"]), job["at"])
    try:
        cli.main(job["arguments"])
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # beyond what commands end with: whether the fault was met
    os._exit(code + 100 * bool(job["fault"] and disk.was_hit()))


print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        run(job)
    if job["kill_after"] is not None:
        time.sleep(job["kill_after"])
        os.kill(child, signal.SIGKILL)  # not waited for yet: the id is nobody else's
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
