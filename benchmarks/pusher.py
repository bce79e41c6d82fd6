"""The process with the pipeline that `benchmarks.flood` measures: it prints how many seconds its jobs took.

It is given how many jobs, the window of each worker or None, and the workers' ports. It imports nothing of
`benchmarks`, so that it runs with the zpipeline of any tree.
"""

import gc
import sys
import time

from twisted.internet import defer, task

from zpipeline.pipeline import Pipeline


async def push(reactor, jobs, window, ports):
    """How many seconds it takes until all are settled."""
    pipeline = Pipeline(reactor, [f"tcp://127.0.0.1:{port}" for port in ports], journal=None, window=window)
    pipeline.startService()
    while pipeline.ready_workers < len(ports):
        await task.deferLater(reactor, 0.05)
    bodies = [b"x" * 100] * 1000
    began = time.monotonic()
    for _ in range(jobs // 1000):
        await pipeline.push_many(bodies)
        while pipeline.pending > 50_000:
            await task.deferLater(reactor, 0)
    while pipeline.pending:
        await task.deferLater(reactor, 0)
    took = time.monotonic() - began
    await pipeline.stopService()
    return took


def main(jobs, window, *ports):
    """The command line."""
    # as zpipe-web does
    gc.freeze()
    gc.set_threshold(10_000)
    given = int(jobs), None if window == "None" else int(window), ports
    task.react(lambda reactor: defer.Deferred.fromCoroutine(push(reactor, *given)).addCallback(print))


if __name__ == "__main__":
    main(*sys.argv[1:])
