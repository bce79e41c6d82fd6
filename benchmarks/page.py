"""What was measured, as tables in reStructuredText and as plots."""

from __future__ import annotations

import os
import platform
import sqlite3
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import zmq

mpl.use("svg")

from matplotlib import pyplot  # after the choice of how it draws

MODES = ("durable", "memory")


def write(found: dict[str, Any], folder: Path, scale: float) -> None:
    """The tables (``measured.inc``) and the plots (``*.svg``), into this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_machine(scale), _rates(found["rates"]), _jobs(found), _latency(found["latency"])]
    parts += [_growth(found), _watched(found["watched"])]
    (folder / "measured.inc").write_text("\n\n".join(parts) + "\n")
    workers = found["workers"]
    _plot(
        folder / "workers.svg",
        "workers",
        {
            "batches of 1,000": [(number, cost * 10) for number, cost in workers["batches"]],
            "one by one": workers["single"],
        },
        "µs a job (batches: µs for ten)",
    )
    bodies = found["bodies"]
    lengths = [length for length, _ in bodies["points"]]
    _plot(
        folder / "bodies.svg",
        "bytes of a body",
        {"measured": bodies["points"], "a + b x bytes": [(n, bodies["a"] + bodies["b"] * n) for n in lengths]},
        "µs a job",
    )


def _machine(scale: float) -> str:
    day = time.strftime("%d %B %Y").lstrip("0")
    system = f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"
    versions = f"Twisted {version('twisted')}, libzmq {zmq.zmq_version()}, SQLite {sqlite3.sqlite_version}"
    part = "" if scale == 1.0 else f" Only {scale:g} of each load: figures that show that it works, and no more."
    return f"Measured on {day}: {_processor()}, {os.cpu_count()} cores; {system}, {versions}.{part}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _rates(found: dict[str, dict[str, float]]) -> str:
    rows = [[load, *(f"{found[mode][load]:,.0f}" for mode in MODES)] for load in found["durable"]]
    if not rows:
        return "Requests were not measured: neither ab nor wrk is installed."
    return _table("Requests a second", ["load", *MODES], rows)


def _jobs(found: dict[str, Any]) -> str:
    batches, flood = found["batches"], found["flood"]
    rows = [
        *([f"``POST /batch``, {mode}, settled", f"{batches[mode]['rate']:,.0f}"] for mode in MODES),
        ["``Pipeline.push_many`` from memory, settled", f"{flood['three']:,.0f}"],
        ["the same with one worker", f"{flood['one']:,.0f}"],
    ]
    return _table("Jobs a second", ["what", "jobs a second"], rows)


def _latency(found: dict[str, dict[str, float]]) -> str:
    names = {"durable": "durable", "memory": "memory", "fdatasync": "``fdatasync`` of 4 KiB, by itself"}
    rows = [[names[name], f"{each['p50']:.2f}", f"{each['p99']:.2f}"] for name, each in found.items()]
    title = "From request to the start of its handler, 1,000 requests a second, in milliseconds"
    return _table(title, ["", "p50", "p99"], rows)


def _growth(found: dict[str, Any]) -> str:
    workers, bodies = found["workers"], found["bodies"]
    singles = dict(workers["single"])
    rows = [[f"{number:,.0f} workers", f"{cost:.1f}", f"{singles[number]:.0f}"] for number, cost in workers["batches"]]
    rows += [[f"{number:,.0f} jobs wait (durable)", f"{cost:.1f}", ""] for number, cost in found["waiting"]]
    table = _table(
        "What a job costs the web side, in microseconds of its processor time", ["", "in batches", "one by one"], rows
    )
    return (
        f"{table}\n\nBodies, from memory, one by one: {bodies['a']:.0f} microseconds a job, and "
        f"{bodies['b'] * 1000:.2f} a thousand bytes of its body. To send a thousand bytes over a socket of this "
        f"machine, and to receive them, takes {bodies['copy'] * 1000:.2f}."
    )


def _watched(found: dict[str, dict[str, float]]) -> str:
    if not found:
        return "What it costs to be watched was not measured: neither ab nor wrk is installed."
    names = {"alone": "nobody looks", "watched": "ten pages are open, and metrics are scraped each second"}
    rows = [
        [names[name], f"{found[name]['rate']:,.0f}", f"{found[name]['cost']:.1f}", f"{found['idle'][name]:.2%}"]
        for name in names
    ]
    ratio = found["ratio"]
    rows.append(["the one divided by the other", f"{ratio['rate']:.3f}", f"{ratio['cost']:.3f}", ""])
    title = "What it costs to be watched (durable): the web side's processor time for each request, and when none comes"
    return _table(title, ["", "requests a second", "microseconds each", "idle"], rows)


def _table(title: str, head: list[str], rows: list[list[str]]) -> str:
    lines = [f".. list-table:: {title}", "   :header-rows: 1", ""]
    for row in [head, *rows]:
        lines += [f"   {'* -' if place == 0 else '  -'} {cell}".rstrip() for place, cell in enumerate(row)]
    return "\n".join(lines)


def _plot(path: Path, x: str, lines: dict[str, Any], y: str) -> None:
    mpl.rcParams["svg.hashsalt"] = "zpipeline"  # the same figures make the same file
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log" if "bytes" in x else "linear")
    axes.set_ylim(bottom=None if "bytes" in x else 0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
