"""The fault suite, again and again: how often does each of its tests fail?

    python -m tests.faults.again [--times 1] [--jobs 1] [--keep-going] [--log fault-runs] [SUITE]

Each run has its own log, and one line in the summary once it has ended. Runs of the same commit with the same files are
a series. When it is interrupted and called again, it goes on with the runs that the series lacks; another commit, or
another file that git does not ignore, begins a new one. It stops at a run that fails. The exit status is 1 when a run
of the series has failed, and 2 when it could not begin.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

from attrs import field, frozen
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

SUITE = "tests.faults"

#: How long a run may take to end its processes when it is interrupted, in seconds; then they are killed.
_PATIENCE = 10.0

_LINE = re.compile(
    r"run (?P<number>\d+)  (?P<series>\S+ \S+ \S+)  (?P<passed>\d+) passed, (?P<failed>\d+) failed, "
    r"(?P<skipped>\d+) skipped  (?P<seconds>\d+) s  load (?P<load>[\d.]+)  (?P<date>\S+ \S+)(?:  (?P<names>.+))?"
)


@frozen
class Run:
    """A run that has ended.

    :ivar series: commit, state of the tree and suite.
    :ivar seconds: that it took.
    :ivar load: average of the machine in the last minute of it.
    :ivar names: of tests that failed.
    """

    number: int
    series: str
    passed: int
    failed: int
    skipped: int
    seconds: int
    load: float
    date: str
    names: tuple[str, ...] = field(converter=tuple)

    @property
    def line(self) -> str:
        """Of the summary."""
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        line = f"run {self.number}  {self.series}  {counts}  {self.seconds} s  load {self.load:.2f}  {self.date}"
        return "  ".join([line, *([" ".join(self.names)] if self.names else [])])

    @classmethod
    def of_line(cls, line: str) -> Run | None:
        """What that line says; None: it was cut off."""
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        numbers = [int(found[name]) for name in ("passed", "failed", "skipped", "seconds")]
        names = (found["names"] or "").split()
        return cls(int(found["number"]), found["series"], *numbers, float(found["load"]), found["date"], names)

    @classmethod
    def of_log(cls, number: int, series: str, log: str, status: int, seconds: float) -> Run:
        """What trial has said.

        :param status: that it ended with.
        """
        said = re.findall(r"^(?:PASSED|FAILED)(?: \((.*)\))?$", log, re.MULTILINE)
        counts = {name: int(times) for name, times in re.findall(r"(\w+)=(\d+)", said[-1] if said else "")}
        failed = sum(counts.get(kind, 0) for kind in ("failures", "errors", "unexpectedSuccesses"))
        names = failures(log)
        if status and not failed:
            failed, names = 1, names or ["(trial-ended-without-a-count)"]
        passed, skipped = counts.get("successes", 0), counts.get("skips", 0)
        date = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(number, series, passed, failed, skipped, round(seconds), os.getloadavg()[0], date, names)


def failures(log: str) -> list[str]:
    """Names of the tests that failed, of what trial has printed."""
    names = []
    for block in re.split(r"^={70,}$", log, flags=re.MULTILINE):
        if block.startswith(("\n[FAIL]", "\n[ERROR]")):
            # the names come last, one a line
            text = re.split(r"^-{70,}$", block, flags=re.MULTILINE)[0]
            names += re.findall(r"^[\w.]+$", text.rstrip().rpartition("\n\n")[2], re.MULTILINE)
    return names


class Runner:
    """Makes the runs that a series lacks.

    :param folder: of the logs, and of the summary.
    :param jobs: so many at a time.
    """

    def __init__(self, folder: Path, suite: str, times: int, jobs: int, keep_going: bool, console: Console) -> None:
        self._folder = folder
        self._suite = suite
        self._times = times
        self._jobs = jobs
        self._keep_going = keep_going
        self._console = console
        self._series = f"{tree()} {suite}"
        self._logs = folder / self._series.replace(" ", "-")
        self._runs: list[Run] = []
        self._under_way: dict[int, tuple[subprocess.Popen[bytes], float, int]] = {}  # by number: when begun, and lane

    def run(self) -> list[Run]:
        """All of the series, in the end or at a failure."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                fail(f"runs are being made in {self._folder} already: wait for them, or name another with --log")
            self._runs = [run for run in self._summary() if run.series == self._series and run.number <= self._times]
            done = {run.number for run in self._runs}
            try:
                self._run([number for number in range(1, self._times + 1) if number not in done], lock)
            finally:
                self._interrupt()
        return self._runs

    def explain(self, failed: Run) -> str:
        """What to do about a run that has failed."""
        go_on = [sys.executable, "-m", "tests.faults.again", "--times", str(self._times), "--jobs", str(self._jobs)]
        go_on += ["--log", str(self._folder), "--keep-going", self._suite]
        return (
            f"run {failed.number} has failed: {', '.join(failed.names)}\n"
            f"its log: {self._log_of(failed.number)}\n"
            f"to make the other runs nevertheless: {shlex.join(go_on)}"
        )

    def _run(self, missing: list[int], lock: IO[str]) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            task = progress.add_task("", total=self._times, completed=len(self._runs))
            while True:
                while missing and len(self._under_way) < self._jobs and not self._is_over:
                    self._start(missing.pop(0), lock)
                if not self._under_way:
                    break
                progress.update(task, description=f"run {', '.join(map(str, self._under_way))}")
                time.sleep(0.1)
                for run in self._ended():
                    progress.advance(task)
                    self._console.print(run.line, soft_wrap=True, highlight=False, markup=False)

    @property
    def _is_over(self) -> bool:
        return not self._keep_going and any(run.failed for run in self._runs)

    def _start(self, number: int, lock: IO[str]) -> None:
        lane = min(set(range(self._jobs)) - {taken for _, _, taken in self._under_way.values()})
        words = [sys.executable, "-m", "twisted.trial", f"--temp-directory=_trial_temp_faults_{lane}", self._suite]
        with self._log_of(number).open("wb") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
                pass_fds=[lock.fileno()],  # a run that outlives this process is not joined by another
            )
        self._under_way[number] = process, time.monotonic(), lane

    def _ended(self) -> list[Run]:
        """Write down the runs that have ended since."""
        ended = []
        for number, (process, began, _) in list(self._under_way.items()):
            status = process.poll()
            if status is not None:
                del self._under_way[number]
                log = self._log_of(number).read_text(errors="replace")
                run = Run.of_log(number, self._series, log, status, time.monotonic() - began)
                with self._summary_path.open("a") as summary:
                    summary.write(run.line + "\n")
                ended.append(run)
        self._runs += ended
        return ended

    def _interrupt(self) -> None:
        """End what is under way."""
        for process, _, _ in self._under_way.values():
            process.send_signal(signal.SIGINT)  # so that it ends the processes of its tests
        for process, _, _ in self._under_way.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _log_of(self, number: int) -> Path:
        return self._logs / f"run-{number:03}.log"

    @property
    def _summary_path(self) -> Path:
        return self._folder / "summary.txt"

    def _summary(self) -> list[Run]:
        if not self._summary_path.exists():
            return []
        runs = map(Run.of_line, self._summary_path.read_text().splitlines())
        return [run for run in runs if run is not None]


def tree() -> str:
    """The commit in the working directory, and ``clean`` or ``dirty-`` with a digest of what differs from it."""
    commit = _git("rev-parse", "--short=10", "HEAD").decode().strip()
    others = _git("ls-files", "--others", "--exclude-standard", "-z").split(b"\0")[:-1]
    digest = hashlib.sha256(_git("diff", "HEAD", "--binary"))
    clean = digest.digest() == hashlib.sha256().digest() and not others
    for name in others:
        digest.update(name + b"\0" + Path(os.fsdecode(name)).read_bytes())
    return f"{commit} {'clean' if clean else f'dirty-{digest.hexdigest()[:10]}'}"


def _git(*words: str) -> bytes:
    try:
        return subprocess.run(["git", *words], check=True, capture_output=True).stdout
    except FileNotFoundError:
        fail("git is not installed: without it, nobody knows which runs are of the same files")
    except subprocess.CalledProcessError as error:
        fail(f"{shlex.join(error.cmd)}: {error.stderr.decode().strip()}")


def fail(why: str) -> NoReturn:
    """End, before anything has begun."""
    print(f"again: {why}", file=sys.stderr)
    sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=1, help="so many runs (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time (default: %(default)s)")
    parser.add_argument("--keep-going", action="store_true", help="make all runs, whatever fails")
    parser.add_argument("--log", type=Path, default=Path("fault-runs"), help="folder (default: %(default)s)")
    parser.add_argument("suite", nargs="?", default=SUITE, help="what trial is to run (default: %(default)s)")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    runner = Runner(given.log, given.suite, given.times, given.jobs, given.keep_going, Console())
    try:
        runs = runner.run()
    except KeyboardInterrupt:
        sys.exit(f"interrupted: the same command goes on; {given.log}/summary.txt has what has ended")
    failed = [run for run in runs if run.failed]
    for run in failed:
        print(runner.explain(run))
    print(f"{len(runs)} of {given.times} runs have ended, {len(failed)} failed: {given.log}/summary.txt")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
