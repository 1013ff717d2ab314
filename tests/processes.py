"""Which processes are still at work."""

from collections.abc import Iterable

import psutil


def at_work(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that run; one that has ended, and whose new parent has not asked for its exit code yet, does not."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found
