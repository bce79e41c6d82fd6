"""What a job costs the web side (microseconds of its processor time) as workers, waiting jobs and bodies grow."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable

from benchmarks.batches import LINES, batch
from benchmarks.client import post, send_all
from benchmarks.rig import TRIAL, Rig, free_ports, processor_time

WORKERS = (1, 8, 64)
WAITING = (0, 1_000_000)
BODIES = (10, 100, 1_000, 10_000, 100_000, 1_000_000)


def measure_workers(scale: float, said: Callable[[str], None]) -> dict[str, list[list[float]]]:
    """By what is sent: numbers of workers, and the cost of a job. From memory: of workers the journal hears nothing."""
    found: dict[str, list[list[float]]] = {"batches": [], "single": []}
    for workers in WORKERS[:-1] if scale < TRIAL else WORKERS:  # to start 64 takes as long as all else then
        with Rig() as rig:
            said(f"growth: {workers} workers start")
            rig.start("--no-journal", workers=workers)
            requests = {
                "batches": ([batch()] * max(2, round(200 * scale)), 2, LINES),
                "single": ([post("/", b"x" * 100)] * max(100, round(20_000 * scale)), 100, 1),
            }
            for kind, (sent, connections, jobs) in requests.items():
                said(f"growth: {workers} workers, {kind}")
                cost = min(_cost(rig, sent, connections, len(sent) * jobs) for _ in range(3))
                found[kind].append([workers, cost])
    return found


def measure_waiting(scale: float, said: Callable[[str], None]) -> list[list[float]]:
    """How many jobs wait in the journal, and the cost of accepting and settling one more, batches of 1,000."""
    found = []
    for waiting in (round(number * scale) for number in WAITING):
        with Rig() as rig:
            # The workers come when all are there. Then what is settled is old, and what is accepted waits.
            rig.worker_ports = free_ports(3)
            rig.start_web()
            said(f"growth: {waiting:,} jobs are made to wait")
            asyncio.run(send_all(rig.port, [batch()] * (waiting // LINES), 2))
            said(f"growth: {waiting:,} jobs wait")
            rig.start_workers()
            rig.until_ready(3)
            requests = [batch()] * max(2, round(100 * scale))
            spent, before = processor_time(rig.web), rig.pending()
            asyncio.run(send_all(rig.port, requests, 2))
            accepted = len(requests) * LINES
            settled = before + accepted - rig.pending()
            # to accept a job and to settle it are taken for a half of its cost each
            found.append([waiting, (processor_time(rig.web) - spent) / (accepted + settled) * 2e6])
    return found


def measure_bodies(scale: float, said: Callable[[str], None]) -> dict[str, object]:
    """Lengths of bodies, and the cost of a job with one; the cost as a + b x bytes; what copying a byte costs."""
    points = []
    for length in BODIES:
        said(f"growth: bodies of {length:,} bytes")
        count = max(50, round(min(20_000, 300_000_000 // (length + 5_000)) * scale))
        with Rig() as rig:
            rig.start("--no-journal")
            requests = [post("/", b"x" * length)] * count
            points.append([length, min(_cost(rig, requests, 20, count) for _ in range(2))])
    base, each = _fit(points)
    return {"points": points, "a": base, "b": each, "copy": _copying()}


def _cost(rig: Rig, requests: list[bytes], connections: int, jobs: int) -> float:
    spent = processor_time(rig.web)
    answers = asyncio.run(send_all(rig.port, requests, connections))
    for answer in answers:
        said = json.loads(answer)
        rig.until_settled([said["ids"][-1] if "ids" in said else said["id"]])
    return (processor_time(rig.web) - spent) / jobs * 1e6


def _fit(points: list[list[float]]) -> tuple[float, float]:
    """a and b of a + b x bytes, such that the errors relative to the costs are least."""
    weights = [1 / cost**2 for _, cost in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True)) / spread
    return mean_y - slope * mean_x, slope


def _copying() -> float:
    """Microseconds that it takes to send a byte over a socket of this machine, and to receive it."""
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    piece, pieces = b"x" * 65_536, 2000
    began = time.process_time()
    for _ in range(pieces):
        sender.sendall(piece)
        left = len(piece)
        while left:
            left -= len(receiver.recv(left))
    took = time.process_time() - began
    for end in (listener, sender, receiver):
        end.close()
    return took / pieces / len(piece) * 1e6


if __name__ == "__main__":
    print(measure_workers(1.0, print))
    print(measure_waiting(1.0, print))
    print(measure_bodies(1.0, print))
