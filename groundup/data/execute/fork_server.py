"""The process whose forks the processes of a pool are: it has loaded what they need, once for all of them.

Imported by Python's fork server, as the first thing that it does there, and by nothing else.
"""

import importlib
import os
import signal

from groundup.orphans import die_with

signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the pool
die_with(os.getppid())
importlib.import_module("groundup.data.preload")
