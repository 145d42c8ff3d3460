"""`he-agg federation ...`: the operator's commands. They act on the store, whether or not the aggregator runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from he_agg.errors import ConfigError, Reason
from he_agg.host.commands import answer
from he_agg.host.files import beside
from service.core.transcript import transcript
from service.operator import operations
from service.operator.on_store import Desk, on_store
from service.store.rows import Keeping

__all__ = [
    "federation_create",
    "federation_end",
    "federation_epoch",
    "federation_export",
    "federation_pause",
    "federation_resume",
    "federation_roster",
    "federation_show",
    "federation_start",
]

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=_FILE)
@click.option("--roster", type=_FILE, required=True, help="The signed roster: who belongs to the federation.")
@click.option("--bundle", type=_FILE, help="The signed bundle of the group key, for the sites to get from here.")
@click.option(
    "--sample-fraction",
    type=float,
    default=1.0,
    help="Invite this fraction of the sites to each round, drawn at random, never fewer than the plan's least number.",
)
@click.option("--keep-sums", type=int, help="How many sums stay; older ones are removed, their records are not.")
@click.option("--keep-submissions", is_flag=True, help="Keep the encrypted submissions of published rounds, for audit.")
@on_store(create=True)
def federation_create(
    desk: Desk,
    file: Path,
    roster: Path,
    bundle: Path | None,
    sample_fraction: float,
    keep_sums: int | None,
    keep_submissions: bool,
    as_json: bool,
) -> None:
    """Register the federation that FILE describes: the federation file of its coordinator.

    Compare the fingerprints that are printed with the coordinators, over the phone, before you start it.
    """
    document = operations.read_document(file)
    signed = operations.read_roster(roster)
    dealt = None if bundle is None else operations.read_bundle(bundle)
    keeping = Keeping(sample_fraction, keep_sums, keep_submissions)
    new = operations.create_federation(desk.store, desk.conductor, document, signed, dealt, keeping)
    summary = operations.overview(desk.store, document.plan.federation)[0]
    did = "registered" if new else "was registered already"
    answer(
        summary,
        as_json,
        lambda: (
            f"federation {summary['federation']} {did}: plan {summary['plan_id'][:12]}, "
            f"key {summary['key_id'][:12]}, {summary['min_sites']} to {summary['max_sites']} sites\n{_roster(summary)}"
        ),
    )


@click.command()
@click.argument("name", required=False)
@on_store()
def federation_show(desk: Desk, name: str | None, as_json: bool) -> None:
    """Show where federations stand, or one of them."""
    summaries = operations.overview(desk.store, name)
    answer(summaries if name is None else summaries[0], as_json, lambda: _table(summaries))


@click.command()
@click.argument("name")
@on_store()
def federation_start(desk: Desk, name: str, as_json: bool) -> None:
    """Start the federation NAME: its first round opens."""
    summary = operations.start(desk.store, desk.conductor, name)
    answer(summary, as_json, lambda: f"federation {name} runs: {_round(summary)}")


@click.command()
@click.argument("name")
@on_store()
def federation_pause(desk: Desk, name: str, as_json: bool) -> None:
    """Pause the federation NAME: no round opens, and the deadline of an open one stands still."""
    summary = operations.pause(desk.store, desk.conductor, name)
    answer(summary, as_json, lambda: f"federation {name} is paused: {_round(summary)}")


@click.command()
@click.argument("name")
@on_store()
def federation_resume(desk: Desk, name: str, as_json: bool) -> None:
    """Let the paused federation NAME go on, with as much time as its round had left."""
    summary = operations.resume(desk.store, desk.conductor, name)
    answer(summary, as_json, lambda: f"federation {name} runs: {_round(summary)}")


@click.command()
@click.argument("name")
@on_store()
def federation_end(desk: Desk, name: str, as_json: bool) -> None:
    """End the federation NAME: an open round fails, a closed one still gets its sum."""
    summary = operations.end(desk.store, desk.conductor, name)
    answer(summary, as_json, lambda: f"federation {name} has ended: {_round(summary)}")


@click.command()
@click.argument("name")
@click.argument("file", type=_FILE)
@on_store()
def federation_roster(desk: Desk, name: str, file: Path, as_json: bool) -> None:
    """Give the federation NAME the next version of its roster. Who is not in it any more is refused from now on."""
    new = operations.bring_roster(desk.store, desk.conductor, name, operations.read_roster(file))
    summary = operations.overview(desk.store, name)[0]
    did = "goes by" if new else "had this roster already, and goes by"
    answer(summary, as_json, lambda: f"federation {name} {did} {_roster(summary)}\n{_round(summary)}")


@click.command()
@click.argument("name")
@click.argument("file", type=_FILE)
@on_store()
def federation_epoch(desk: Desk, name: str, file: Path, as_json: bool) -> None:
    """Begin the next epoch of the federation NAME with the bundle in FILE. An open round begins anew under it."""
    new = operations.bring_bundle(desk.store, desk.conductor, name, operations.read_bundle(file))
    summary = operations.overview(desk.store, name)[0]
    did = "is in" if new else "had this bundle already, and is in"
    answer(
        summary,
        as_json,
        lambda: f"federation {name} {did} epoch {summary['epoch']}, key {summary['key_id'][:12]}: {_round(summary)}",
    )


@click.command()
@click.argument("name")
@click.option("--out", type=_FILE, required=True, help="Where to write it.")
@on_store()
def federation_export(desk: Desk, name: str, out: Path, as_json: bool) -> None:
    """Write the transcript of the federation NAME: everything signed, for `he-agg audit`."""
    records = operations.overview(desk.store, name)[0]["records"]
    try:
        with beside(out, lambda file: file.writelines(transcript(desk.store, name)), 0o644) as temporary:
            temporary.replace(out)
    except OSError as error:
        raise ConfigError(Reason.BAD_CONFIG, f"cannot write {out}: {error.strerror}") from error
    answer(
        {"federation": name, "records": records, "out": str(out)},
        as_json,
        lambda: f"transcript of {name} with {records} record(s) written to {out}",
    )


def _roster(summary: dict[str, Any]) -> str:
    expires = datetime.fromtimestamp(summary["roster_expires_at"], UTC).strftime("%Y-%m-%d")
    prints = "".join(f"\n          {name}  {print_}" for name, print_ in summary["coordinators"].items())
    return f"version {summary['roster_version']} of the roster, good until {expires}, of the coordinators{prints}"


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
        return "no federations yet; register one: he-agg federation create federation.json --roster roster.json"
    lines = []
    for summary in summaries:
        lines += [
            f"{summary['federation']}  {summary['stage']}",
            f"  sites   {len(summary['sites'])} of {summary['min_sites']} to {summary['max_sites']}: "
            f"{', '.join(summary['sites']) or 'none'}",
            f"  plan    {summary['plan_id'][:12]}, {summary['codec']}, {summary['values']} values, "
            f"{summary['bytes_up']} bytes per submission, {summary['rounds']} rounds of at most "
            f"{summary['deadline_s']} s",
            f"  roster  {_roster(summary)}",
            f"  key     {summary['key_id'][:12]}, epoch {summary['epoch']}",
            f"  rounds  {_options(summary)}",
            f"  now     {_round(summary)}",
            f"  latest  {summary['last_published'] or 'no sum yet'}",
            f"  chain   {summary['records']} record(s)",
        ]
    return "\n".join(lines)
