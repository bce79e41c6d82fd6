"""This tree beside another commit, in turns on one machine: has it become slower?

    python -m benchmarks.beside COMMIT [--rounds 3] [--scale 1.0] [--only NAME ...]

For each rate: the medians, and the ratio of this tree's to the commit's, the median of one for each round. Latencies
are divided the other way round, so that a ratio below 1 is always the worse. What is below 0.95 and 0.90 is marked.

The commit is unpacked into a temporary folder, and runs with what is installed here. Its processes and this tree's are
driven by the same clients; each process that would run the wrong code ends.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from shutil import which
from typing import TypeAlias

from attrs import frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import batches, flood, latency, rates
from benchmarks.rig import MODES, TREE, Rig

#: Given a tree and a scale: figures, by name.
Measure: TypeAlias = Callable[[Path, float], dict[str, float]]

#: The least ratio that is not marked, and the least that is not marked twice.
FINE, POOR = 0.95, 0.90


def _requests(mode: str, load: str, tree: Path, scale: float) -> dict[str, float]:
    with Rig(tree) as rig:
        rig.start(*MODES[mode])
        return {"requests a second": rates.run(load, rig.port, scale)}


def _batches(mode: str, tree: Path, scale: float) -> dict[str, float]:
    with Rig(tree) as rig:
        rig.start(*MODES[mode])
        return {"jobs a second": batches.settled(rig, batches.requests_of(scale))}


def _flood(workers: int, tree: Path, scale: float) -> dict[str, float]:
    return {"jobs a second": flood.push(tree, flood.jobs_of(scale), workers)[0]}


def _latency(tree: Path, scale: float) -> dict[str, float]:
    with Rig(tree) as rig:
        found = latency.until_handled(rig, MODES["durable"], max(1.0, 10 * scale))
    return {f"ms, {share}": value for share, value in found.items()}


MEASURES: dict[str, Measure] = {
    **{f"{load}-{mode}": partial(_requests, mode, load) for mode in MODES for load in rates.LOADS},
    **{f"batch-{mode}": partial(_batches, mode) for mode in MODES},
    "flood-three": partial(_flood, 3),
    "flood-one": partial(_flood, 1),
    "latency-durable": _latency,
}


@frozen
class Figure:
    """What was measured of both, a pair each round.

    :ivar name: of the measure, and of what it counts.
    """

    name: str
    pairs: list[tuple[float, float]]

    @property
    def ratio(self) -> float:
        """Of this tree to the other, the median of those of the pairs; below 1 it is worse."""
        is_rate = "a second" in self.name
        return statistics.median(this / other if is_rate else other / this for this, other in self.pairs)

    @property
    def line(self) -> str:
        """Of the table."""
        this, other = (f"{statistics.median(side):,.2f}" for side in zip(*self.pairs, strict=True))
        mark = f"  below {FINE if self.ratio >= POOR else POOR:.2f}" if self.ratio < FINE else ""
        return f"{self.name:40}{this:>14}{other:>14}{self.ratio:>8.3f}{mark}"


def compare(name: str, other: Path, scale: float) -> dict[str, tuple[float, float]]:
    """Measure this tree, and then the other: the pair of each figure."""
    this, others = MEASURES[name](TREE, scale), MEASURES[name](other, scale)
    return {f"{name}, {what}": (this[what], others[what]) for what in this}


def unpack(commit: str, into: Path) -> None:
    """Put the files of a commit into a folder.

    :raises SystemExit: there is no such commit.
    """
    archive = into / "archive.tar"
    words = ["git", "-C", str(TREE), "archive", f"--output={archive}", commit]
    made = subprocess.run(words, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(f"the commit {commit} cannot be unpacked: {made.stderr.strip()}")
    subprocess.run(["tar", "-xf", archive, "-C", into], check=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what git knows it by")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of each figure (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="how much of each load (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=MEASURES, metavar="NAME", help=f"of {', '.join(MEASURES)}")
    arguments = parser.parse_args()
    missing = [load for load in rates.LOADS if not which(load)]
    names = [name for name in arguments.only or MEASURES if name.partition("-")[0] not in missing]
    pairs: dict[str, list[tuple[float, float]]] = {}
    console = Console()
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with tempfile.TemporaryDirectory() as folder:
        unpack(arguments.commit, Path(folder))
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("", total=arguments.rounds * len(names))
            for name in names * arguments.rounds:
                progress.update(task, description=name)
                for figure, pair in compare(name, Path(folder), arguments.scale).items():
                    pairs.setdefault(figure, []).append(pair)
                progress.advance(task)
    print(f"{'':40}{'this tree':>14}{arguments.commit[:12]:>14}{'ratio':>8}")
    for figure, each in pairs.items():
        print(Figure(figure, each).line)
    if missing:
        print(f"not measured: {' and '.join(missing)}, which is not installed")


if __name__ == "__main__":
    main()
