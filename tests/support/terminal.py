"""Type commands in a terminal, as a person does who reads what is asked."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Typed", "in_terminal"]

WAIT_S = 240.0
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Typed(str):
    """What a terminal showed, with what was typed into it."""

    code: int


def in_terminal(line: str, directory: Path, answers: Sequence[tuple[str, str]] = ()) -> Typed:
    """Type a line of shell, and answer what it asks.

    Args:
        answers: pairs of an end of a question, as a regular expression, and what to type then, in their order.

    Returns:
        What was shown, with the exit code.
    """
    master, slave = os.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HE_AGG_")}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{environment['PATH']}", "TERM": "dumb", "COLUMNS": "200"}
    process = subprocess.Popen(
        ["sh", "-c", line],
        cwd=directory,
        env=environment,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown, seen, left, end = "", 0, list(answers), time.monotonic() + WAIT_S
    try:
        while time.monotonic() < end:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    data = os.read(master, 2**16)
                except OSError:  # the other end is closed: it has ended
                    break
                shown += _COLOURS.sub("", data.decode(errors="replace"))
            if left and (found := re.search(left[0][0], shown[seen:])):
                seen += found.end()
                os.write(master, left.pop(0)[1].encode() + b"\n")
        code = process.wait(max(0.1, end - time.monotonic()))
    finally:
        process.kill()
        process.wait()
        os.close(master)
    typed = Typed(shown.replace("\r\n", "\n"))
    typed.code = code
    return typed
