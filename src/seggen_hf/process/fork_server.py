"""Imported, before anything else, by the process that children are forked from, and by no other.

That process is asked by nobody to stop: who stops a run sends the signal to all its processes, and while children
write their checkpoints it is needed to tell of their end. It ends with the process that it serves.
"""

import signal

TERMINATION = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what children get back
