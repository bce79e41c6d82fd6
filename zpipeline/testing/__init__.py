"""For tests of what uses zpipeline: a pipeline without sockets, processes and files (docs/testing.rst).

`FakePipeline` is a `zpipeline.Pipeline` in memory, and whatever that does, it does: it admits jobs, has them tried
again, keeps dead letters and tells of jobs by the same code. What it has not are workers: it runs each job by itself,
at once, or when it is told to. What has to wait waits for a clock that the test advances. So nothing has to be waited
for in a test, and nothing that a test does depends on how fast a machine is.

    fake.py     the pipeline
    worker.py   what runs its jobs
    clock.py    its time
"""

from zpipeline.testing.fake import FakePipeline, PushedJob

__all__ = ["FakePipeline", "PushedJob"]
