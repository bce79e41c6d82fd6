"""Requests a second: a GET, a job, an answer 202; three workers that do nothing. Loads of ab (a connection for each
request) and wrk (kept alive), 100 at a time.
"""

from __future__ import annotations

import re
import statistics
import subprocess
from collections.abc import Callable
from shutil import which

from benchmarks.rig import MODES, Rig, rounds

LOADS = {
    "ab": (["ab", "-q", "-c", "100", "-n"], 10_000, 100, r"Requests per second: +([\d.]+)"),
    "wrk": (["wrk", "-t1", "-c100", "-d"], 4, 1, r"Requests/sec: +([\d.]+)"),
}


def measure(scale: float, said: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Requests a second, by mode and load: medians of three rounds, in which all take turns."""
    measured: dict[str, dict[str, list[float]]] = {mode: {} for mode in MODES}
    loads = [name for name in LOADS if which(name)]
    for turn in range(times := rounds(scale)):
        for mode, options in MODES.items():
            with Rig() as rig:
                rig.start(*options)
                for load in loads:
                    said(f"requests, round {turn + 1} of {times}: {mode}, {load}")
                    measured[mode].setdefault(load, []).append(run(load, rig.port, scale))
    return {mode: {load: statistics.median(of) for load, of in loads.items()} for mode, loads in measured.items()}


def run(load: str, port: int, scale: float) -> float:
    """Requests a second, with this load."""
    command, size, least, pattern = LOADS[load]
    amount = max(least, round(size * scale))
    output = subprocess.run([*command, str(amount), f"http://127.0.0.1:{port}/"], capture_output=True, text=True)
    found = re.search(pattern, output.stdout)
    if found is None or re.search(r"Non-2xx", output.stdout):
        raise SystemExit(f"{load} failed: {output.stdout}{output.stderr}")
    return float(found[1])


if __name__ == "__main__":
    print(measure(1.0, print))
