"""The example worker as it stands, with a handler that does what bodies say, and the time in its record's lines.

Usage: example_worker.py PATH PORT RECORD SECONDS. What its handler writes into the record passes through here.
Beside the bodies of `tests.faults.bodies` it knows ``reject`` and ``later SECONDS``.
"""

import os
import runpy
import sys
import time

from tests.faults.bodies import Later, act, seconds_of

_write = os.write
_record = sys.argv[3]


class Rejected(Exception):
    """This job can never work."""

    kind = 1


def write(file, data):
    """Write a line of the record, and if that begins a job, do what its body says."""
    written = _write(file, b"%.6f %b" % (time.monotonic(), data))
    word, job_id, *body = data.decode().rstrip("\n").split(" ", 2)
    if word == "begin":
        act(_record, job_id, body[0])
        match body[0].split():
            case ["reject"]:
                raise Rejected("as it was told to")
            case ["later", seconds]:
                raise Later(float(seconds))
        time.sleep(seconds_of(body[0]) or 0)
    return written


os.write = write
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
