"""Runs the writers of elf/files.py, each in a fork that has imported nothing else."""

import json
import sys
from pathlib import Path

from forks import serve

from elf.files import AppendLog, replace_file, write_atomic


def write(arguments):
    """Write records in one of the ways there are; what an append has acknowledged is printed."""
    way, folder, records = arguments[0], Path(arguments[1]), json.loads(arguments[2])
    lines = "".join(json.dumps(record) + "\n" for record in records)
    if way == "write_atomic":
        write_atomic(folder / "records.jsonl", lines)
    elif way == "replace_file":
        replace_file(folder / "records.jsonl", lines.encode())
    elif way == "rewrite":
        with AppendLog(folder / "records.jsonl") as log:
            log.rewrite(records)
    elif way == "append":
        with AppendLog(folder / "records.jsonl") as log:
            append(log, [record for record in records if record not in log.records])
    else:
        for_ever(folder)


def append(log, records):
    for number, record in enumerate(records):
        log.append(record)
        print(json.dumps(record), flush=True)
        if number % 3 == 2:
            log.sync()


def for_ever(folder):
    """Go on with a log and, in turn, replace a file by one of two contents."""
    with AppendLog(folder / "log.jsonl") as log:
        number = len(log.records)
        while True:
            append(log, [{"id": number, "text": "größer " * (number % 50)}])
            write_atomic(folder / "file", str(number % 2) * 50_000)
            number += 1


sys.stdout.reconfigure(line_buffering=True)
serve(write)
