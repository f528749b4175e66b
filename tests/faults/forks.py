"""Calls a function again and again, each time in a fork, on a disk that fails.

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

disk = ctypes.CDLL(None)


def serve(function):
    """Call a function with the arguments of each job."""
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if not (child := os.fork()):
            run(function, job)
        if job["kill_after"] is not None:
            time.sleep(job["kill_after"])
            os.kill(child, signal.SIGKILL)  # not waited for yet: the id is nobody else's
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(function, job):
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if job["fault"]:
        disk.arm(job["below"].encode(), ord(job["fault"]), job["at"])
    try:
        function(job["arguments"])
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
