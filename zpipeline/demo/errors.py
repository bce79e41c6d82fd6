"""What goes wrong with an experiment."""

from __future__ import annotations

from zpipeline.errors import ZpipelineError


class DemoError(ZpipelineError):
    """The experiment could not be run to its end; nothing is known of what was lost."""
