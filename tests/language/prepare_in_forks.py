"""Prepares text in forks, each of which may be killed: what it imports is paid for once.

A line of JSON on standard input is a job; the answer is how it ended. ``kill_at`` kills it before
the n-th operation on the disk, ``kill_after`` after so many seconds.
"""

import builtins
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from transformers import AutoTokenizer

from elf.language.preparing import prepare_tokens
from elf.language.settings import TextSettings
from elf.language.tokenizing import tokenizer_hash

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the forks
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
key = tokenizer_hash(tokenizer)


def kill_before(at):
    """Count operations that change the disk, and end this process before one of them."""
    left = [at]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("replace", "fsync", "mkdir", "rmdir", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    shutil.rmtree = counted(shutil.rmtree)
    builtins.open = counted(builtins.open)


def run(job):
    if job.get("kill_at"):
        kill_before(job["kill_at"])
    settings = TextSettings(**job["settings"])
    prepare_tokens(job["files"], tokenizer, key, settings, Path(job["folder"]))


print(key, flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        try:
            run(job)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    if job.get("kill_after") is not None:
        time.sleep(job["kill_after"])
        os.kill(child, signal.SIGKILL)  # not waited for yet: the id is nobody else's
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
