"""The coordinator's one command: `he-agg found`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from client_sdk.cli.found_local import found_local
from client_sdk.cli.plan_options import ask, plan_of, plan_options
from he_agg.documents.address import Address
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, InputError, Reason
from he_agg.host.commands import FILE, Whole, answer, json_option, messages
from he_agg.host.comparing import compare, fingerprint_option, heard_of
from he_agg.host.roster_view import roster_table, signers_of
from he_agg.host.shell import quoted
from he_agg.ids import check_name
from keys.cli.identity import Own, own_identity, refuse_existing
from keys.cli.options import PassphraseOptions, new_passphrase_options
from keys.cli.roster import answers_option, days_option, min_sites_option, small_groups_option
from keys.files import read_document, replace_file, write_new
from keys.founding import Founders, deal_start
from keys.rosters import new_roster, read_roster, sign_roster

__all__ = ["found"]


@click.command("found")
@click.argument("federation", required=False)
@click.argument("files", metavar="[NAME.public.json]...", nargs=-1, type=FILE)
@plan_options
@click.option("--name", help="This hospital, which coordinates. [default: that of the one identity file here]")
@click.option("--coordinator", "coordinators", multiple=True, metavar="NAME", help="Another site that has to sign.")
@click.option(
    "--holder",
    "trustees",
    multiple=True,
    type=FILE,
    metavar="FILE",
    help="Public file of a trustee, with --keys split.",
)
@click.option(
    "--holders",
    "committee",
    metavar="NAME,...",
    help="With --keys split: sites that hold. [default: all]",
)
@answers_option
@click.option("--roster", "roster_file", type=FILE, help="The roster of before, which other coordinators have signed.")
@min_sites_option
@small_groups_option
@days_option
@click.option("--url", help="Where sites reach the aggregator, if its public file does not say so.")
@click.option("--ca-file", type=FILE, help="What sites trust there instead of the system's authorities, PEM.")
@fingerprint_option
@click.option("--yes", is_flag=True, help="All fingerprints have been compared: do not ask.")
@click.option("--local", type=Whole(2, 26), metavar="N", help="Instead: N hospitals, all on this machine.")
@new_passphrase_options
@json_option
def found(
    passphrases: PassphraseOptions,
    federation: str | None,
    files: tuple[Path, ...],
    name: str | None,
    coordinators: tuple[str, ...],
    trustees: tuple[Path, ...],
    committee: str | None,
    answers: int | None,
    roster_file: Path | None,
    url: str | None,
    ca_file: Path | None,
    fingerprints: tuple[str, ...],
    yes: bool,
    local: int | None,
    protect: bool | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Found FEDERATION with the hospitals and the aggregator whose public files are given.

    Proposes clip, weight cap and bits from an example of an update, has fingerprints compared by phone, signs the
    roster, seals the group key to every hospital, and writes FEDERATION.start.json. That goes to the operator, who
    types `he-agg federation take START`, and to every hospital, which types `he-agg join START`.

    In a terminal it asks for what is not given. With --local, all is in a folder FEDERATION on this machine, and runs.
    """
    if local is not None:
        others = (files, name, coordinators, trustees, committee, answers, roster_file, url, ca_file, fingerprints)
        if any(others) or protect:
            raise click.UsageError("--local makes all members itself: leave out what is about others, or their keys")
        plan = plan_of(check_name(federation or "demo", "federation"), local, given | {"min_sites": min(3, local)})
        found_local(plan, local, given["update"] or given["model"], as_json)
        return
    federation = check_name(federation or ask("Name of the federation", "FEDERATION"), "federation")
    start_file, keystore, plan_file = (Path(f"{federation}.{end}") for end in ("start.json", "keystore", "plan"))
    refuse_existing(start_file, keystore, *([] if given["plan_file"] else [plan_file]))
    if not files:
        files = tuple(sorted(Path().glob("*.public.json")))
    heard = heard_of(fingerprints)
    own = own_identity(name, protect, passphrases)
    founders = Founders.read(files, own.identity.member(), trustees)
    address = _address(founders, own, url, ca_file)
    plan = plan_of(federation, len(founders.sites), given, len(founders.trustees))
    split = plan.public.splits_keys
    if (trustees or committee or answers) and not split:
        raise click.UsageError(
            "shared keys have no holders: leave --holder, --holders and --answers out, or --keys split"
        )
    if roster_file is None:
        roster = new_roster(
            federation,
            founders.roles((own.identity.name, *coordinators), split, committee.split(",") if committee else ()),
            answers=answers,
            min_sites=given["min_sites"],
            small_groups=given["small_groups"],
            days=given["days"],
            now=int(time.time()),
        )
    else:
        roster = read_roster(roster_file)
    messages.print(roster_table(roster), markup=False, soft_wrap=True)
    if not yes:
        _compare_all(roster.body, own, heard)
    roster = sign_roster(roster, own.identity)
    if given["plan_file"] is None:
        write_new(plan_file, plan.encode())
    if len(signers_of(roster)) < roster.body.threshold:
        _ask_for_signatures(roster, given["plan_file"] or plan_file, as_json)
        return
    start, key = deal_start(
        plan, roster, own.identity, address, start_file, keystore, time.time(), lambda: own.passphrase.answer
    )
    facts = {
        "start": str(start_file),
        "keystore": str(keystore),
        "sites": sorted(roster.body.having(Role.SITE)),
        "url": start.address.body.url,
        "fingerprint": own.identity.fingerprint,
        "key_id": key.key_id,
        **plan.explain(),
    }
    lines = [
        f"group key of the first epoch, secret: {keystore}",
        f"start file, not secret: {start_file}",
        f"fingerprint of {own.identity.name}, to read over the phone: {own.identity.fingerprint}",
        f"next: the operator gets {start_file} and types `he-agg federation take {quoted(start_file)}`;",
        f"      every hospital gets it, and types, this one too, `he-agg join {quoted(start_file)}`",
    ]
    if founders.trustees:
        names = ", ".join(member.name for member in founders.trustees)
        lines += [f"      {names} gets it, and types `he-agg holder join {quoted(start_file)}`"]
    answer(facts, as_json, lambda: "\n".join(lines))


def _address(founders: Founders, own: Own, url: str | None, ca_file: Path | None) -> Signed[Address]:
    """Return the aggregator's own word for where it is, or else the coordinator's."""
    signed = founders.aggregator.address
    if url is None and ca_file is None and signed is not None:
        return signed
    where = url or (None if signed is None else signed.body.url)
    if where is None:
        raise InputError(
            Reason.BAD_ARGUMENT,
            "the aggregator's public file does not say where it is reached",
            "the operator starts it with `he-agg serve --url https://HOST:PORT`, which writes one that does; or give "
            "--url https://HOST:PORT",
        )
    trusted = "" if ca_file is None else read_document(ca_file, lambda data: data.decode("ascii"), "a PEM file")
    if trusted and "-----BEGIN CERTIFICATE-----" not in trusted:
        raise ConfigError(Reason.BAD_CONFIG, f"{ca_file}: expected certificates in PEM form, got something else")
    made = Address.from_json(Address(where, trusted).to_json())
    return Signed.make(made, own.identity.signing_key, own.identity.name)


def _compare_all(roster: Roster, own: Own, heard: dict[str, str]) -> None:
    """Have the fingerprints of all others compared, before the roster is signed."""
    others = [name for name in roster.members if name != own.identity.name]
    missing = set(others) - set(compare(roster, others, heard, "before the roster is signed"))
    if missing:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected the fingerprints of all other members, got none of {', '.join(sorted(missing))}",
            'call them, and give what they read: --fingerprint NAME="xxxx xxxx ..."',
        )


def _ask_for_signatures(roster: Signed[Roster], plan_file: Path, as_json: bool) -> None:
    """Stop here until other coordinators have signed."""
    body, name = roster.body, roster.body.federation
    path = Path(f"{name}.roster-{body.version}.json")
    replace_file(path, roster.encode())
    missing = sorted(set(body.having(Role.COORDINATOR)) - set(signers_of(roster)))
    lines = [
        f"roster with {len(signers_of(roster))} of {body.threshold} signatures: {path}",
        f"next: {', '.join(missing)}: `he-agg roster sign {quoted(path)} --identity ...`; with the last one's file,",
        f"      `he-agg found {name} --plan {quoted(plan_file)} --roster {quoted(path)}`",
    ]
    facts = {"roster": str(path), "plan": str(plan_file), "signed_by": signers_of(roster), "missing": missing}
    answer(facts, as_json, lambda: "\n".join(lines))
