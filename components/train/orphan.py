"""A process that does not outlive the one that started it, even if that one is killed."""

import ctypes
import os
import signal
import sys
from typing import Any

# <linux/prctl.h>
_DIE_WITH_PARENT = 1


def end_with(parent: int) -> None:
    """Let the end of the process `parent`, which started this one, send it SIGTERM; exit if it is gone already."""
    prctl: Any = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(f"the process {parent}, which started this one, is gone")
