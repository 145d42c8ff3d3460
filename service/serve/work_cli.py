"""`he-agg work`: fold and remove, and serve nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from service.operator.options import where
from service.settings import load_settings

__all__ = ["work"]


@click.command()
@click.option("--metrics-port", type=int, help="Serve /metrics for Prometheus on this port.  [default: none]")
@click.option("--metrics-host", help="Address for that: one that sites do not reach.  [default: 127.0.0.1]")
@click.option(
    "--audit-log",
    help="Send audit events to syslog://HOST, syslog+tcp://HOST, syslog+tls://HOST, syslog+unix:///dev/log, "
    "file:///PATH or otlp:URL.  [default: none, or HE_AGG_AUDIT_LOG]",
)
@click.option("--traces", is_flag=True, default=None, help="Send OpenTelemetry traces, one span for each sum.")
@where
def work(data_dir: Path, database_url: str | None, **options: Any) -> None:
    """Make sums and remove what is due, until SIGTERM or Ctrl-C.

    Any number of these may run, on any machines, beside any number of `he-agg serve`, with the same PostgreSQL and the
    same store of parts. The first line on stdout is `working`; the log goes to stderr, one JSON object per line.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url, **options)
    # The command's help needs none of this.
    from service.serve.working import run

    run(settings)
