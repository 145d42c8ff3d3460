"""`he-agg serve`: run the aggregator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from he_agg.host.commands import FILE
from service.operator.options import where
from service.settings import Settings, load_settings

__all__ = ["serve"]

_DEFAULTS = Settings.model_fields


@click.command()
@click.option(
    "--host",
    help="Address to listen on: 0.0.0.0 for all of this machine, which needs TLS.  "
    f"[default: {_DEFAULTS['host'].default}, which other machines do not reach; or HE_AGG_HOST]",
)
@click.option(
    "--port",
    type=int,
    help=f"Port to listen on; 0 takes a free one.  [default: {_DEFAULTS['port'].default}, or HE_AGG_PORT]",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    help="How many processes serve, behind one address. Several need PostgreSQL.  "
    "[default: one; over PostgreSQL one for each core, but four at most]",
)
@click.option(
    "--no-work",
    "work",
    is_flag=True,
    flag_value=False,
    default=None,
    help="Leave folding and removing to `he-agg work`, which has to run beside it. Needs PostgreSQL.",
)
@click.option(
    "--url",
    help="Where sites reach this aggregator: https://HOST:PORT. It is put into aggregator.public.json in --data-dir.",
)
@click.option(
    "--self-signed",
    is_flag=True,
    default=None,
    help="Serve TLS with a certificate made here for the host of --url; sites get it in the start file.",
)
@click.option("--tls-cert", type=FILE, help="Serve TLS with this certificate and its chain, PEM.")
@click.option("--tls-key", type=FILE, help="The certificate's key, PEM.")
@click.option("--tls-client-ca", type=FILE, help="Only let in clients with a certificate of this authority, PEM.")
@click.option(
    "--behind-tls-proxy",
    is_flag=True,
    default=None,
    help="A proxy in front does TLS: serve plain HTTP on any address.",
)
@click.option(
    "--operator-port",
    type=int,
    help="Also serve the operators' page, on loopback and this port; 0 takes a free one.  [default: none]",
)
@click.option("--operator-host", help="Address of that page; other than loopback only with --operator-url.")
@click.option("--operator-url", help="Where browsers reach that page by a proxy that does TLS: https://host/path.")
@click.option(
    "--oidc-issuer", help="People sign in to that page by this identity provider, instead of by links: https://..."
)
@click.option("--oidc-client-id", help="The page's client id there.")
@click.option("--oidc-client-secret-file", type=FILE, help="File with the client's secret.")
@click.option("--oidc-operators", help="Group whose members may look, pause, resume and skip.")
@click.option("--oidc-viewers", help="Group whose members may look.")
@click.option("--metrics-port", type=int, help="Also serve /metrics for Prometheus on this port.  [default: none]")
@click.option("--metrics-host", help="Address for that: one that sites do not reach.  [default: 127.0.0.1]")
@click.option(
    "--parts",
    help="Keep parts in an object store instead of --data-dir: s3://BUCKET/PREFIX, with the usual AWS_* variables.",
)
@click.option(
    "--audit-log",
    help="Send audit events to syslog://HOST, syslog+tcp://HOST, syslog+tls://HOST, syslog+unix:///dev/log, "
    "file:///PATH or otlp:URL; commands on --data-dir tell the same.  [default: none, or HE_AGG_AUDIT_LOG]",
)
@click.option("--traces", is_flag=True, default=None, help="Send OpenTelemetry traces, one span for each request.")
@where
def serve(data_dir: Path, database_url: str | None, **options: Any) -> int:
    """Run the aggregator until SIGTERM or Ctrl-C.

    The first line on stdout is `listening on http://HOST:PORT` (or https://), further ones say what the coordinator
    gets, and where the operators' page and metrics are; the log goes to stderr, one JSON object per line.
    """
    settings = load_settings(data_dir=data_dir, database_url=database_url, **options)
    # Only this command needs the web framework.
    from service.serve.server import run

    return run(settings)
