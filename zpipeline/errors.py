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
