"""POST /batch, 1,000 lines of 100 bytes: accepted, run and settled by three workers that do nothing, a second."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable

from benchmarks.client import post, send_all
from benchmarks.rig import MODES, Rig, processor_time

LINES = 1000


def batch(lines: int = LINES) -> bytes:
    """A request with so many."""
    return post("/batch", (json.dumps("x" * 98).encode() + b"\n") * lines, "application/x-ndjson")


def measure(scale: float, said: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """By mode: jobs settled a second, and microseconds of the web side's processor time for each. Medians of three."""
    found = {}
    requests = requests_of(scale)
    for mode, options in MODES.items():
        rates, costs = [], []
        with Rig() as rig:
            rig.start(*options)
            for turn in range(3):
                said(f"batches, round {turn + 1} of 3: {mode}")
                spent = processor_time(rig.web)
                rates.append(settled(rig, requests))
                costs.append((processor_time(rig.web) - spent) / requests / LINES * 1e6)
        found[mode] = {"rate": statistics.median(rates), "cost": statistics.median(costs)}
    return found


def requests_of(scale: float) -> int:
    """How many batches are sent at once."""
    return max(2, round(200 * scale))


def settled(rig: Rig, requests: int) -> float:
    """Send so many batches: jobs settled a second."""
    began = time.monotonic()
    answers = asyncio.run(send_all(rig.port, [batch()] * requests, 2))
    rig.until_settled(json.loads(answer)["ids"][-1] for answer in answers)
    return requests * LINES / (time.monotonic() - began)


if __name__ == "__main__":
    print(measure(1.0, print))
