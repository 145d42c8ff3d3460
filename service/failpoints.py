"""Places where a test may kill the aggregator: DANGEROUS, for tests only.

`HE_AGG_FAILPOINT="file.renamed:3"` ends the process with exit code 137, without a word and without cleaning up, the
third time that it passes the place of that name: as `kill -9` at that very moment would. Without the variable a passage
is one comparison. There is no other way to arm one, and no request can.

Each name says what has just happened, or what comes next where it begins with `before`. tests/faults/test_kill_loop.py
kills a real server at every one of them, which also proves that none is dead.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

from he_agg.errors import ConfigError, Reason

__all__ = ["EXIT_KILLED", "FAILPOINTS", "VARIABLE", "arm", "failpoint"]

VARIABLE = "HE_AGG_FAILPOINT"
EXIT_KILLED = 137
"""What a shell reports for a process that SIGKILL ended."""

Failpoint = Literal[
    # a directory is made: store/parts/directory.py
    "directory.made",
    "directory.synced",
    # a file is made
    "file.opened",
    "file.written",
    "file.synced",
    "file.renamed",
    "file.directory_synced",
    # files of a round are removed
    "removal.began",
    "removal.done",
    "removal.synced",
    # an object is put: store/parts/s3.py
    "object.before_put",
    "object.put",
    # objects of a round are removed
    "objects.listed",
    "objects.removed",
    # a transaction ends: store/sql.py
    "transaction.before_commit",
    "transaction.committed",
    # a submission comes in: core/submissions/
    "part.checked",
    "part.before_row",
    "completion.before_row",
    # a sum is made: folding.py, worker.py
    "folding.began",
    "folding.before_row",
    "folding.done",
    "scrubbing.files_gone",
    # a signed document is durable, and its sender has not heard yet: http/routes/common.py
    "document.stored",
    # an answer is given: logs.py, which sees every one
    "answer.before_head",
    "answer.head_sent",
    "answer.before_end",
    "answer.sent",
]
FAILPOINTS: tuple[str, ...] = get_args(Failpoint)
"""Every name there is."""

_armed: str | None = None
_passages_left = 0


def failpoint(name: Failpoint) -> None:
    """Die here, if this is the armed place and its turn has come."""
    if name == _armed:
        _pass()


def arm(setting: str | None) -> None:
    """Arm one place, or none.

    Args:
        setting: "name:count" as in the variable; nothing disarms.
    """
    global _armed, _passages_left
    if not setting:
        _armed = None
        return
    name, _, count = setting.partition(":")
    if name not in FAILPOINTS or not count.isdecimal() or int(count) < 1:
        raise ConfigError(Reason.BAD_CONFIG, f"{VARIABLE}: expected NAME:COUNT of a failpoint, got another setting")
    _armed, _passages_left = name, int(count)


def _pass() -> None:
    global _passages_left
    # Two threads may pass at once. Losing a count then does no harm: the next passage is as good to die at.
    _passages_left -= 1
    if _passages_left <= 0:
        os._exit(EXIT_KILLED)


arm(os.environ.get(VARIABLE))
