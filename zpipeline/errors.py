"""The errors of zpipeline.

They are one small tree::

    ZpipelineError
        UsageError          an option or argument that cannot work; the message says how to mend it
            HandlerError    no usable handler under that name
        ProtocolError       a ZeroMQ message that breaks ZPP/1
        Refused             a job that was not accepted; nothing of it is kept
            Full            the bound on unsettled jobs is reached
            Draining        the pipeline is being stopped
            TooLarge        a body is over the limit
            KeyReused       an idempotency key was that of another request
            KeysFull        too many idempotency keys are kept
            JournalError    the journal cannot be written now
                JournalFull     its disk is full
        NoResult            a job that has no result to give
            UnknownJob      there is no job of that id
            NotSettled      it has not been done yet
            JobDead         it has failed for good
            ResultGone      it is done, and its result is not here
        NotClosed           a service was stopped, and a part of it could not be closed
"""

from __future__ import annotations


class ZpipelineError(Exception):
    """The root of every error that zpipeline raises on purpose."""


class UsageError(ZpipelineError, ValueError):
    """An option or argument that cannot work. Its text is one line that says how to mend it."""


class HandlerError(UsageError):
    """No usable handler is found under the name that was given."""


class ProtocolError(ZpipelineError):
    """A message that breaks ZPP/1 (docs/protocol.rst, rule 10): it has no effect but to be counted."""


class Refused(ZpipelineError):
    """A job was not accepted. Nothing of it is kept: push it again, later or elsewhere."""


class Full(Refused):
    """The bound on unsettled jobs is reached.

    :ivar retry_after: after how many seconds trying again makes sense.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Draining(Refused):
    """The pipeline is being stopped and takes nothing new."""


class TooLarge(Refused):
    """A body is larger than the pipeline takes."""


class KeyReused(Refused):
    """An idempotency key was used for another request before."""


class KeysFull(Refused):
    """As many idempotency keys are kept as may be, and none is forgotten early."""


class JournalError(Refused):
    """The journal cannot be read or written now. Its text names the file and says how to mend it."""


class JournalFull(JournalError):
    """There is no room on the disk of the journal."""


class NoResult(ZpipelineError):
    """There is no result of this job to be had.

    :ivar job_id: the job's id.
    """

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class UnknownJob(NoResult):
    """There is no job of this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, f"no job {job_id} is known")


class NotSettled(NoResult, TimeoutError):
    """The job is not settled yet: the time was over, or the pipeline was stopped, before it was.

    :ivar state: of the job, as `zpipeline.JobStatus` has it.
    """

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(job_id, f"the job {job_id} is not settled yet: it is {state}")
        self.state = state


class JobDead(NoResult):
    """The job has failed for good: it is, or was, a dead letter.

    :ivar error: why its last attempt failed.
    :ivar attempts: how many attempts there were.
    """

    def __init__(self, job_id: str, error: str, attempts: int) -> None:
        super().__init__(job_id, f"the job {job_id} is dead: {error}")
        self.error = error
        self.attempts = attempts


class ResultGone(NoResult):
    """The job is settled, and its result is not kept, or could not be carried.

    :ivar reason: why that is so.
    """

    def __init__(self, job_id: str, reason: str) -> None:
        super().__init__(job_id, f"the result of job {job_id} is not here: {reason}")
        self.reason = reason


class NotClosed(ZpipelineError):
    """A service was stopped, and a part of it could not be closed. The log has why; all else of it is closed."""
