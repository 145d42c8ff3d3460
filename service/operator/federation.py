"""`he-agg federation ...`: the operator's commands. They act on the store, whether or not the aggregator runs."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from he_agg.documents.record import HOW_IT_ENDED
from he_agg.documents.roster import Role
from he_agg.errors import ConfigError, Reason, counted
from he_agg.host.commands import FILE, answer
from he_agg.host.comparing import compare, fingerprint_option, first_roster, heard_of
from he_agg.host.files import beside, file_trouble
from he_agg.host.roster_view import day_of, signers_of
from service.audit_events.event import make_event
from service.core.conductor import Conductor
from service.core.transcript import transcript
from service.operator import operations
from service.operator.holding import awaited_line, complaint_lines, keys_line
from service.operator.options import OpenStore, on_store
from service.store.rows import Keeping
from service.store.sql import Store

__all__ = [
    "dispute",
    "federation_create",
    "federation_end",
    "federation_epoch",
    "federation_export",
    "federation_pause",
    "federation_resume",
    "federation_roster",
    "federation_show",
    "federation_skip",
    "federation_start",
    "federation_take",
]


def _keeping(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say what is kept; the command gets them as `keeping`."""

    @click.option("--keep-sums", type=int, help="How many sums stay; older ones are removed, their records are not.")
    @click.option(
        "--keep-submissions", is_flag=True, help="Keep the encrypted submissions of published rounds, for audit."
    )
    @functools.wraps(command)
    def wrapped(*arguments: Any, keep_sums: int | None, keep_submissions: bool, **options: Any) -> None:
        command(*arguments, keeping=Keeping(keep_sums, keep_submissions), **options)

    return wrapped


@click.command()
@click.argument("file", type=FILE)
@click.option("--roster", type=FILE, required=True, help="The signed roster: who belongs to the federation.")
@click.option("--bundle", type=FILE, help="The signed bundle of the group key, for the sites to get from here.")
@_keeping
@on_store(create=True)
def federation_create(
    store: OpenStore,
    file: Path,
    roster: Path,
    bundle: Path | None,
    keeping: Keeping,
    as_json: bool,
) -> None:
    """Register the federation that FILE describes: the federation file of its coordinator.

    Compare the fingerprints that are printed with the coordinators, over the phone, before you start it.
    """
    document = operations.read_document(file)
    signed = operations.read_roster(roster)
    dealt = None if bundle is None else operations.read_bundle(bundle)
    new = operations.create_federation(store.rows, store.conductor, document, signed, dealt, keeping)
    shown = store.show(document.plan.federation)
    did = "registered" if new else "was registered already"
    answer(
        shown,
        as_json,
        lambda: (
            f"federation {shown['federation']} {did}: plan {shown['plan_id'][:12]}, "
            f"key {shown['key_id'][:12]}, {shown['min_sites']} to {shown['max_sites']} sites\n{_roster(shown)}"
        ),
    )


@click.command()
@click.argument("file", metavar="START", type=FILE)
@fingerprint_option
@click.option("--yes", is_flag=True, help="The fingerprints have been compared: do not ask.")
@_keeping
@on_store(create=True)
def federation_take(
    store: OpenStore,
    file: Path,
    fingerprints: tuple[str, ...],
    yes: bool,
    keeping: Keeping,
    as_json: bool,
) -> None:
    """Take in the federation of the START file, and start it. Running it again is fine.

    Call the coordinators who signed it, and compare the fingerprints.
    """
    start = operations.read_start(file)
    heard, roster = heard_of(fingerprints), start.roster.body
    signers = signers_of(start.roster)
    if not yes:
        first_roster(start.roster, compare(roster, signers, heard, "who signed the roster"), time.time())
    operations.create_federation(
        store.rows,
        store.conductor,
        start.document,
        start.roster.encode(),
        start.bundle.encode(),
        keeping,
    )
    operations.start(store.rows, store.conductor, start.federation)
    shown = store.show(start.federation)
    answer(
        shown,
        as_json,
        lambda: (
            f"federation {start.federation} runs, with {', '.join(roster.having(Role.SITE))}\n"
            f"{_roster(shown)}\n{_round(shown)}"
        ),
    )


@click.command()
@click.argument("name", required=False)
@on_store()
def federation_show(store: OpenStore, name: str | None, as_json: bool) -> None:
    """Show where federations stand, or one of them."""
    shown = operations.show(store.rows, store.settings, name)
    answer(shown if name is None else shown[0], as_json, lambda: _table(shown))


def _stage_command(act: Callable[[Store, Conductor, str], None], did: str, help_text: str) -> click.Command:
    """Make a command that brings a federation into another stage."""

    @click.command(help=help_text)
    @click.argument("name")
    @on_store()
    def command(store: OpenStore, name: str, as_json: bool) -> None:
        act(store.rows, store.conductor, name)
        shown = store.show(name)
        answer(shown, as_json, lambda: f"federation {name} {did}{_end(shown)}: {_round(shown)}{_keys(shown)}")

    return command


federation_start = _stage_command(operations.start, "runs", "Start the federation NAME: its first round opens.")
federation_pause = _stage_command(
    operations.pause,
    "is paused",
    "Pause the federation NAME: no round opens, and the deadline of an open one stands still.",
)
federation_resume = _stage_command(
    operations.resume, "runs", "Let the paused federation NAME go on, with as much time as its round had left."
)
dispute = _stage_command(
    operations.dispute,
    "tries its disputed round again",
    "Give up the newest sum of the federation NAME, which sites have rejected: the same round is tried again, by the "
    "sites of the newest roster.",
)
federation_skip = _stage_command(
    operations.skip,
    "waits for no holders any longer",
    "Wait no longer for the holders of the newest sum of the federation NAME: the next round opens, and that sum stays "
    "unopened unless enough of them answer soon.",
)
federation_end = _stage_command(
    operations.end, "has ended", "End the federation NAME: an open round fails, a closed one still gets its sum."
)


@click.command()
@click.argument("name")
@click.argument("file", type=FILE)
@on_store()
def federation_roster(store: OpenStore, name: str, file: Path, as_json: bool) -> None:
    """Give the federation NAME the next version of its roster; members that it does not list are refused at once."""
    new = operations.bring_roster(store.rows, store.conductor, name, operations.read_roster(file))
    shown = store.show(name)
    did = "goes by" if new else "had this roster already, and goes by"
    answer(shown, as_json, lambda: f"federation {name} {did} {_roster(shown)}\n{_round(shown)}")


@click.command()
@click.argument("name")
@click.argument("file", type=FILE)
@on_store()
def federation_epoch(store: OpenStore, name: str, file: Path, as_json: bool) -> None:
    """Begin the next epoch of the federation NAME with the bundle in FILE. An open round starts over under it."""
    new = operations.bring_bundle(store.rows, store.conductor, name, operations.read_bundle(file))
    shown = store.show(name)
    did = "is in" if new else "had this bundle already, and is in"
    answer(
        shown,
        as_json,
        lambda: f"federation {name} {did} epoch {shown['epoch']}, key {shown['key_id'][:12]}: {_round(shown)}",
    )


@click.command()
@click.argument("name")
@click.option("--out", type=FILE, required=True, help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@on_store()
def federation_export(store: OpenStore, name: str, out: Path, force: bool, as_json: bool) -> None:
    """Write the transcript of the federation NAME: everything signed, for `he-agg audit`."""
    if os.path.lexists(out) and not force:
        raise ConfigError(
            Reason.FILE_EXISTS, f"{out} exists; nothing was written", "give another --out, or --force to replace it"
        )
    records = store.show(name)["records"]
    try:
        with beside(out, lambda file: file.writelines(transcript(store.rows, name)), 0o644) as temporary:
            temporary.replace(out)
    except OSError as error:
        raise file_trouble(error, f"{out} cannot be written") from error
    store.tell(make_event("federation.exported", federation=name, records=records))
    answer(
        {"federation": name, "records": records, "out": str(out)},
        as_json,
        lambda: f"transcript of {name} with {counted(records, 'record')} written to {out}",
    )


def _roster(shown: dict[str, Any]) -> str:
    day = day_of(shown["roster_expires_at"])
    good = f"good until {day}"
    if time.time() >= shown["roster_expires_at"]:
        good = f"EXPIRED on {day}: nobody is let in until coordinators bring the next version"
    prints = "".join(f"\n          {name}  {print_}" for name, print_ in shown["coordinators"].items())
    return f"version {shown['roster_version']} of the roster, {good}, of the coordinators{prints}"


def _round(shown: dict[str, Any]) -> str:
    current = shown["round"]
    if current is None:
        return "no round yet" + ("" if _is_ready(shown) else "; holders: " + keys_line(shown))
    deadline = datetime.fromtimestamp(current["deadline_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    done = f"{current['complete']} of {len(current['sites'])} sites complete"
    text = f"round {current['id']} is {current['phase']}, {done}, deadline {deadline}"
    if len(current["sites"]) < len(shown["sites"]):
        text += f", drawn: {', '.join(one['site'] for one in current['sites'])}"
    asked = ", ".join(f"{one['site']} for part {part}" for one in current["sites"] for part in one["asked_again"])
    if asked:
        text += f"; waiting for parts that the disk has damaged: {asked}"
    if shown["holding"] is not None and shown["holding"]["awaited"] is not None:
        text += "; its holders are awaited"
    return text


def _is_ready(shown: dict[str, Any]) -> bool:
    return shown["holding"] is None or shown["holding"]["ready"] is True


def _end(shown: dict[str, Any]) -> str:
    return "" if shown["end"] is None else f", {HOW_IT_ENDED[shown['end']['reason']]}"


def _keys(shown: dict[str, Any]) -> str:
    """Tell of a deadline that runs before sites can encrypt: before the first sum, if some have not said they can."""
    without = [site for site in shown["sites"] if site not in shown["committed"]]
    if shown["last_published"] or not without or shown["round"] is None:
        return ""
    return (
        f"\nnot heard of yet that they hold the key of epoch {shown['epoch']}: {', '.join(without)}; the deadline runs "
        "already (where bundles go by hand, nobody says so here)"
    )


def _dispute(disputed: dict[str, Any] | None) -> str:
    if disputed is None:
        return ""
    said = ", ".join(f"{site} {verdict}" for site, verdict in disputed["verdicts"].items())
    return f", DISPUTED: {said}; {disputed['quorum']} must open it"


def _holding(shown: dict[str, Any]) -> list[str]:
    """Say which holders can take part, and whom a published round waits for."""
    if (holding := shown["holding"]) is None:
        return []
    lines = [f"  holders {keys_line(shown)}"]
    if (awaited := holding["awaited"]) is not None:
        lines.append(f"  awaited {awaited_line(awaited)}")
        federation = shown["federation"]
        lines.append(f"          without them: `he-agg federation skip {federation}`")
        lines += [f"          {line}" for line in complaint_lines(awaited)]
    return lines


def _options(shown: dict[str, Any]) -> str:
    invited = "all sites" if shown["sample_percent"] == 100 else f"{shown['sample_percent']} of 100 sites"
    sums = "sums as the server is set" if shown["keep_sums"] is None else f"{shown['keep_sums']} sums"
    return f"invite {invited}, keep {sums}" + (" and all submissions" if shown["keep_submissions"] else "")


def _table(federations: list[dict[str, Any]]) -> str:
    if not federations:
        return operations.NONE_YET
    lines = []
    for shown in federations:
        lines += [
            f"{shown['federation']}  {shown['stage']}{_end(shown)}",
            f"  sites   {len(shown['sites'])} of {shown['min_sites']} to {shown['max_sites']}: "
            f"{', '.join(shown['sites']) or 'none'}" + ("; small groups are allowed" if shown["small_groups"] else ""),
            f"  plan    {shown['plan_id'][:12]}, {shown['codec']}, {shown['values']} values, "
            f"{shown['bytes_up']} bytes per submission, {shown['rounds']} rounds of at most "
            f"{shown['deadline_s']} s",
            f"  roster  {_roster(shown)}",
            f"  key     {shown['key_id'][:12]}, epoch {shown['epoch']}",
            f"  rounds  {_options(shown)}",
            f"  now     {_round(shown)}",
            f"  latest  {shown['last_published'] or 'no sum yet'}{_dispute(shown['disputed'])}",
            *_holding(shown),
            f"  chain   {counted(shown['records'], 'record')}",
        ]
    return "\n".join(lines)
