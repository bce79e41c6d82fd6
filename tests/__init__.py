"""The tests of zpipeline.

A process that a script starts in the background has SIGINT ignored, and so have all that it starts. Those that tests
start are to hear it.
"""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
