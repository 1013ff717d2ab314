"""Run a long command as a child: show its progress, pass on what it says, and end as it ends."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable

from components.progress import parse
from components.train.launch import passed_on
from model.errors import RESUMABLE, InputError, Stopped, one_line

_KINDS = ("InputError: ", "Stopped: ")
# From its first such line on, torchrun only repeats in many words that a process of it ended.
_KILLED = re.compile(r"(?:Signal \d+ \(|was killed by )(SIG[A-Z]+)")
_TORCHRUN = re.compile(r"[WEIF]\d{4} ")


def follow(command: list[str], tell: Callable[[int, int, str], None]) -> None:
    """Run `command` to its end, `tell` hearing of its progress as (done, total, note), the step in the note.

    What else it prints goes to standard error. SIGTERM and Ctrl-C are passed on to it and its end is waited for. Raises
    InputError or Stopped if it told of one; exits with one line and the code 1 if it failed otherwise.
    """
    lines: list[str] = []
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    with process, passed_on(process) as passed:
        assert process.stdout is not None
        silent = False
        for line in map(str.rstrip, process.stdout):
            if found := parse(line):
                step, done, total, note = found
                tell(done, total, f"{step} {note}")
                continue
            lines.append(line)
            silent = silent or bool(_TORCHRUN.match(line))
            if not silent and not line.startswith(_KINDS):
                print(line, file=sys.stderr, flush=True)
    told = {kind: [line.removeprefix(kind) for line in lines if line.startswith(kind)] for kind in _KINDS}
    if process.returncode == RESUMABLE or (passed and process.returncode):
        raise Stopped((told["Stopped: "] or ["stopped before it had begun; run it again"])[-1])
    if process.returncode and told["InputError: "]:
        raise InputError(told["InputError: "][0])
    if process.returncode:
        killed = next((match[1] for line in lines if (match := _KILLED.search(line))), "")
        if process.returncode < 0:
            killed = signal.Signals(-process.returncode).name
        why = f"a process was killed by {killed} (out of memory?)" if killed else one_line(lines[-1] if lines else "")
        sys.exit(f"error: training failed: {why}; the same command goes on from its last checkpoint")
