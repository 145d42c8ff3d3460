"""The operator's commands. `serve` runs the aggregator; the others act on its store, whether or not it runs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from he_agg.commands import answer, messages
from he_agg.errors import ConfigError, Reason
from service import operations
from service.settings import Settings, load_settings
from service.store.base import Keeping, Store
from service.store.sql import open_store
from service.tokens import new_token

__all__ = [
    "federation_create",
    "federation_end",
    "federation_pause",
    "federation_resume",
    "federation_show",
    "federation_start",
    "serve",
    "site_add",
    "site_token",
]

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULTS = Settings.model_fields

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HE_AGG_DATA_DIR",
    default=_DEFAULTS["data_dir"].default,
    show_default="./he-agg-data, or HE_AGG_DATA_DIR",
    help="Where the aggregator keeps everything.",
)
_database_url = click.option(
    "--database-url",
    envvar="HE_AGG_DATABASE_URL",
    help="SQLAlchemy URL, for instance postgresql://user@host/db for replicas; by default a SQLite file in --data-dir.",
)


def _where(command: Command) -> Command:
    """The two options that say which store a command is about."""
    return _data_dir(_database_url(command))


def _tls(command: Command) -> Command:
    """The options that say how the connection is kept private."""
    file = click.Path(path_type=Path, dir_okay=False)
    for option in (
        click.option(
            "--behind-tls-proxy",
            is_flag=True,
            default=None,
            help="A proxy in front does TLS: serve plain HTTP on any address.",
        ),
        click.option(
            "--tls-client-ca", type=file, help="Only let in clients with a certificate of this authority, PEM."
        ),
        click.option("--tls-key", type=file, help="The certificate's key, PEM."),
        click.option("--tls-cert", type=file, help="Serve TLS with this certificate and its chain, PEM."),
    ):
        command = option(command)
    return command


_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_token_file = click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the token to this file, readable by its owner only, instead of printing it.",
)


@contextmanager
def _store(data_dir: Path, database_url: str | None, *, create: bool = False) -> Iterator[Store]:
    store = open_store(load_settings(data_dir=data_dir, database_url=database_url), create=create)
    try:
        yield store
    finally:
        store.close()


@click.command()
@click.option("--host", help=f"Address to listen on.  [default: {_DEFAULTS['host'].default}, or HE_AGG_HOST]")
@click.option(
    "--port",
    type=int,
    help=f"Port to listen on; 0 takes a free one.  [default: {_DEFAULTS['port'].default}, or HE_AGG_PORT]",
)
@_tls
@_where
def serve(data_dir: Path, database_url: str | None, **options: Any) -> None:
    """Run the aggregator until SIGTERM or Ctrl-C.

    The first line on stdout is `listening on http://HOST:PORT` (or https://); the log goes to stderr, one JSON object
    per line.
    """
    # Only this command needs the web framework.
    from service.server import run

    run(load_settings(data_dir=data_dir, database_url=database_url, **options))


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--sample-fraction",
    type=float,
    default=1.0,
    help="Invite this fraction of the sites to each round, drawn at random, never fewer than the plan's least number.",
)
@click.option("--keep-sums", type=int, help="How many sums stay; older ones are removed, their records are not.")
@click.option("--keep-submissions", is_flag=True, help="Keep the encrypted submissions of published rounds, for audit.")
@_where
@_as_json
def federation_create(
    file: Path,
    sample_fraction: float,
    keep_sums: int | None,
    keep_submissions: bool,
    data_dir: Path,
    database_url: str | None,
    as_json: bool,
) -> None:
    """Register the federation that FILE describes: the federation file of its coordinator."""
    document = operations.read_document(file)
    with _store(data_dir, database_url, create=True) as store:
        new = operations.create_federation(store, document, Keeping(sample_fraction, keep_sums, keep_submissions))
        summary = operations.overview(store, document.plan.federation)[0]
    did = "registered" if new else "was registered already"
    answer(
        summary,
        as_json,
        lambda: (
            f"federation {summary['federation']} {did}: plan {summary['plan_id'][:12]}, "
            f"key {summary['key_id'][:12]}, {summary['min_sites']} to {summary['max_sites']} sites"
        ),
    )


@click.command()
@click.argument("name", required=False)
@_where
@_as_json
def federation_show(name: str | None, data_dir: Path, database_url: str | None, as_json: bool) -> None:
    """Show where federations stand, or one of them."""
    with _store(data_dir, database_url) as store:
        summaries = operations.overview(store, name)
    answer(summaries if name is None else summaries[0], as_json, lambda: _table(summaries))


@click.command()
@click.argument("name")
@_where
@_as_json
def federation_start(name: str, data_dir: Path, database_url: str | None, as_json: bool) -> None:
    """Start the federation NAME: its first round opens."""
    with _store(data_dir, database_url) as store:
        summary = operations.start(store, name)
    answer(summary, as_json, lambda: f"federation {name} runs: {_round(summary)}")


@click.command()
@click.argument("name")
@_where
@_as_json
def federation_pause(name: str, data_dir: Path, database_url: str | None, as_json: bool) -> None:
    """Pause the federation NAME: no round opens, and the deadline of an open one stands still."""
    with _store(data_dir, database_url) as store:
        summary = operations.pause(store, name)
    answer(summary, as_json, lambda: f"federation {name} is paused: {_round(summary)}")


@click.command()
@click.argument("name")
@_where
@_as_json
def federation_resume(name: str, data_dir: Path, database_url: str | None, as_json: bool) -> None:
    """Let the paused federation NAME go on, with as much time as its round had left."""
    with _store(data_dir, database_url) as store:
        summary = operations.resume(store, name)
    answer(summary, as_json, lambda: f"federation {name} runs: {_round(summary)}")


@click.command()
@click.argument("name")
@_where
@_as_json
def federation_end(name: str, data_dir: Path, database_url: str | None, as_json: bool) -> None:
    """End the federation NAME: an open round fails, a closed one still gets its sum."""
    with _store(data_dir, database_url) as store:
        summary = operations.end(store, name)
    answer(summary, as_json, lambda: f"federation {name} has ended: {_round(summary)}")


@click.command()
@click.argument("federation")
@click.argument("site")
@_token_file
@_where
@_as_json
def site_add(
    federation: str, site: str, token_file: Path | None, data_dir: Path, database_url: str | None, as_json: bool
) -> None:
    """Register SITE in FEDERATION and issue its token, which is shown once."""
    _issue(operations.add_site, federation, site, token_file, data_dir, database_url, as_json)


@click.command()
@click.argument("federation")
@click.argument("site")
@_token_file
@_where
@_as_json
def site_token(
    federation: str, site: str, token_file: Path | None, data_dir: Path, database_url: str | None, as_json: bool
) -> None:
    """Issue a new token for SITE; the old one is void."""
    _issue(operations.replace_token, federation, site, token_file, data_dir, database_url, as_json)


def _issue(
    act: Callable[[Store, str, str, str], None],
    federation: str,
    site: str,
    token_file: Path | None,
    data_dir: Path,
    database_url: str | None,
    as_json: bool,
) -> None:
    token = new_token()
    result = {"federation": federation, "site": site}
    with _store(data_dir, database_url) as store:
        if token_file is None:
            act(store, federation, site, token)
            answer(result | {"token": token}, as_json, lambda: token)
            messages.print(
                "give it to the site over a safe channel; it is not stored here and not shown again", soft_wrap=True
            )
            return
        # The file first: a token that is registered but was never written down would lock the site out.
        with _private_file(token_file, token + "\n"):
            act(store, federation, site, token)
    answer(result | {"token_file": str(token_file)}, as_json, lambda: f"token of {site} written to {token_file}")


@contextmanager
def _private_file(path: Path, text: str) -> Iterator[None]:
    """A file, 0600 from its first moment, that gets its name only if the block succeeds."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(Reason.BAD_CONFIG, f"cannot write {path}: {error.strerror}") from error
    try:
        yield
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _round(summary: dict[str, Any]) -> str:
    current = summary["round"]
    if current is None:
        return "no round yet"
    deadline = datetime.fromtimestamp(current["deadline_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    done = f"{len(current['complete'])} of {len(current['invited'])} sites complete"
    text = f"round {current['id']} is {current['phase']}, {done}, deadline {deadline}"
    if current["sample_seed"]:
        text += f", drawn by seed {current['sample_seed']}: {', '.join(current['invited'])}"
    if current["asked_again"]:
        asked = ", ".join(f"{part['site']} for part {part['part']}" for part in current["asked_again"])
        text += f"; waiting for parts that the disk has damaged: {asked}"
    return text


def _options(summary: dict[str, Any]) -> str:
    invited = "all sites" if summary["sample_fraction"] == 1 else f"a fraction of {summary['sample_fraction']}"
    sums = "sums as the server is set" if summary["keep_sums"] is None else f"{summary['keep_sums']} sums"
    return f"invite {invited}, keep {sums}" + (" and all submissions" if summary["keep_submissions"] else "")


def _table(summaries: list[dict[str, Any]]) -> str:
    if not summaries:
        return "no federations yet; register one: he-agg federation create federation.json"
    lines = []
    for summary in summaries:
        lines += [
            f"{summary['federation']}  {summary['stage']}",
            f"  sites   {len(summary['sites'])} of {summary['min_sites']} to {summary['max_sites']}: "
            f"{', '.join(summary['sites']) or 'none'}",
            f"  plan    {summary['plan_id'][:12]}, {summary['codec']}, {summary['values']} values, "
            f"{summary['bytes_up']} bytes per submission, {summary['rounds']} rounds of at most "
            f"{summary['deadline_s']} s",
            f"  key     {summary['key_id'][:12]}, epoch {summary['epoch']}",
            f"  rounds  {_options(summary)}",
            f"  now     {_round(summary)}",
            f"  latest  {summary['last_published'] or 'no sum yet'}",
        ]
    return "\n".join(lines)
