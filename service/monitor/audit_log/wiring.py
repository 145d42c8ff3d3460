"""Open the audit log of a server, and of an operator's command, which tells the same one.

A server notes in the data directory where its events go, so that commands which act on that directory tell the same
target without being told to: nothing that an operator does there is left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from he_agg.host.files import replace
from service.audit_events.event import Tell, acting, user_of_this_process
from service.monitor.audit_log.sender import Sender
from service.monitor.audit_log.targets import open_target
from service.settings import Settings

__all__ = ["command_events", "note_target", "open_sender"]

_FILE = "audit-log"
_PATIENCE_S = 3.0
"""How long a command waits for a target that does not take its events. Units: seconds."""


def open_sender(settings: Settings) -> Sender | None:
    """Open what the settings name; None if there is no audit log.

    Raises:
        ConfigError: see `open_target`.
    """
    return None if settings.audit_log is None else Sender(open_target(settings.audit_log))


def note_target(settings: Settings) -> None:
    """Write down where events go, for commands on this data directory."""
    path = settings.data_dir / _FILE
    if settings.audit_log is None:
        path.unlink(missing_ok=True)
    else:
        replace(path, settings.audit_log.encode())


@contextlib.contextmanager
def command_events(settings: Settings) -> Iterator[Tell]:
    """Send what a command tells, on behalf of the user who runs it, and see to it that it is sent."""
    if settings.audit_log is None:
        with contextlib.suppress(OSError):
            noted = (settings.data_dir / _FILE).read_text()
            settings = settings.model_copy(update={"audit_log": noted})
    sender = open_sender(settings)
    try:
        with acting(user_of_this_process(), "command"):
            yield (lambda _: None) if sender is None else sender.put
    finally:
        lost = 0 if sender is None else sender.close(_PATIENCE_S)
        if lost:
            click.echo(
                f"warning: it was done, but the audit log at {settings.audit_log} did not take {lost} of its events",
                err=True,
            )
