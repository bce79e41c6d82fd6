"""Plain pyzmq in processes of its own.

python -m tests.zmq_peers idle                            a bound PULL that prints its address, and is never read
python -m tests.zmq_peers flood ADDRESS SIZE SECONDS      a PUSH that sends as fast as it can; prints how many
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import zmq

ROOT = Path(__file__).resolve().parent.parent


def start(*words: object) -> subprocess.Popen[bytes]:
    """Such a process; it ends when its stdin does."""
    command = [sys.executable, "-m", "tests.zmq_peers", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    """End it, stopped or not."""
    process.kill()
    process.communicate()


def _idle() -> None:
    socket = zmq.Context().socket(zmq.PULL)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    print(f"tcp://127.0.0.1:{port}", flush=True)
    sys.stdin.read()  # its Python thread blocks here; libzmq's lives


def _flood(address: str, size: str, seconds: str) -> None:
    socket = zmq.Context().socket(zmq.PUSH)
    socket.connect(address)
    body = bytes(int(size))
    socket.send(body)  # blocks until the connection is there
    sent = 1
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for _ in range(20):
            socket.send(body)
        sent += 20
    socket.context.destroy(linger=60_000)
    print(sent, flush=True)


if __name__ == "__main__":
    {"idle": _idle, "flood": _flood}[sys.argv[1]](*sys.argv[2:])
