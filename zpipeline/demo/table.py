"""What the experiment came to, as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table

from zpipeline.demo.experiment import Result, worker_name
from zpipeline.demo.fault import Fault

_BAR = 24

_WHAT_HAPPENED = {
    Fault.STOP: "stopped half-way",
    Fault.KILL: "killed half-way",
    Fault.FREEZE: "frozen half-way",
}


def make_table(result: Result) -> RenderableType:
    """The workers and what they ran, then the totals."""
    plan, tally = result.plan, result.tally
    workers = Table(title=f"{plan.requests:,} requests over {plan.connections:,} connections", title_justify="left")
    workers.add_column("worker")
    workers.add_column("jobs", justify="right")
    workers.add_column("share", justify="right")
    workers.add_column("", width=_BAR)
    for name, jobs in tally.jobs.items():
        share = tally.shares[name]
        about = _WHAT_HAPPENED.get(plan.fault) if name == worker_name(1) else None
        bar = ProgressBar(total=1.0, completed=share, width=_BAR, complete_style="green")
        workers.add_row(f"{name}, {about}" if about else name, f"{jobs:,}", f"{share:.1%}", bar)
    totals = Table.grid(padding=(0, 2))
    totals.add_column()
    totals.add_column(justify="right")
    totals.add_row("requests/s", f"{result.rate:,.0f}")
    totals.add_row("accepted", f"{tally.accepted:,}")
    totals.add_row("run", f"{tally.run:,}")
    totals.add_row("run twice", f"{tally.run_twice:,}")
    totals.add_row("lost", f"{tally.lost:,}", style="bold red" if tally.lost else "bold green")
    return Group(workers, totals)
