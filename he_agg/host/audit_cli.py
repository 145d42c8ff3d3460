"""`he-agg audit`: a transcript, read by somebody who has no key and trusts no server."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from he_agg.audit import Audit, audit
from he_agg.audit.suspects import Suspects, suspects
from he_agg.documents.record import HOW_IT_ENDED
from he_agg.host.commands import EXIT_REFUSED, FILE, answer, json_option
from he_agg.host.files import file_trouble

__all__ = ["audit_transcript"]

_FINGERPRINT = re.compile(r"([a-z0-9][a-z0-9-]{0,62})=((?:[0-9a-fA-F]{4} ?){8})\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@click.command("audit")
@click.argument("file", type=FILE)
@click.option(
    "--coordinator-fingerprint",
    "fingerprints",
    multiple=True,
    metavar='NAME="XXXX XXXX ..."',
    help="A coordinator of the first roster and its fingerprint, as it was read out. May be repeated.",
)
@click.option(
    "--expect-record",
    "expected",
    multiple=True,
    metavar="DIGEST",
    help="A record that a site has seen, by its digest: it must be in the transcript. May be repeated.",
)
@json_option
def audit_transcript(file: Path, fingerprints: Sequence[str], expected: Sequence[str], as_json: bool) -> None:
    """Check the transcript FILE: rosters, signatures, the chain of records, and who took part. Needs no key.

    Exit code 0 when everything holds, 1 when something does not; then the first violation of each kind is named.
    """
    given = dict(map(_fingerprint, fingerprints))
    if len(given) != len(fingerprints):
        raise click.BadParameter("each coordinator once", param_hint="--coordinator-fingerprint")
    for digest in expected:
        if not _DIGEST.match(digest):
            raise click.BadParameter("expected 64 lower-case hex digits", param_hint="--expect-record")
    try:
        with file.open("rb") as stream:
            result = audit(stream, given or None, tuple(expected))
    except OSError as error:
        raise file_trouble(error, f"{file} cannot be read") from error
    answer(_json(result), as_json, lambda: _text(result))
    if not result.ok:
        click.get_current_context().exit(EXIT_REFUSED)


_ANSWERED, _ECHOED = ("answered",), ("answered", "echoed")


def _fingerprint(text: str) -> tuple[str, str]:
    match = _FINGERPRINT.match(text)
    if match is None:
        raise click.BadParameter(
            'expected NAME="xxxx xxxx xxxx xxxx xxxx xxxx xxxx xxxx"', param_hint="--coordinator-fingerprint"
        )
    return match[1], match[2]


def _json(result: Audit) -> dict[str, Any]:
    return {
        "federation": result.federation,
        "plan_id": result.plan_id,
        "ok": result.ok,
        "coordinators": [dataclasses.asdict(one) for one in result.coordinators],
        "rosters": [dataclasses.asdict(one) for one in result.rosters],
        "rounds": [dataclasses.asdict(one) for one in result.rounds],
        "participation": result.participation,
        "suspects": None if (found := _suspects(result)) is None else dataclasses.asdict(found),
        "head": result.head,
        "findings": [dataclasses.asdict(one) for one in result.findings],
    }


def _text(result: Audit) -> str:
    lines = [f"transcript of federation {result.federation or '?'}, plan {result.plan_id[:12] or '?'}", ""]
    trusted = [
        (one.name, one.fingerprint, "as given" if one.confirmed else "TAKEN ON TRUST") for one in result.coordinators
    ]
    lines += _table("coordinators of the first roster", ("name", "fingerprint", ""), trusted)
    rosters = [
        (row.version, _when(row.issued_at), _when(row.expires_at), len(row.sites), ", ".join(row.signed_by))
        for row in result.rosters
    ]
    lines += _table("rosters", ("version", "issued", "expires", "sites", "signed by"), rosters)
    rounds = [
        (
            row.index,
            row.round,
            row.outcome,
            _when(row.closed_at),
            "?" if row.roster_version is None else row.roster_version,
            row.epoch,
            ", ".join(row.members) or "-",
            ", ".join(f"{site} ({_word(reason)})" for site, reason in row.excluded.items()) or "-",
        )
        for row in result.rounds
    ]
    lines += _table(
        "rounds", ("record", "round", "outcome", "closed", "roster", "epoch", "members", "excluded"), rounds
    )
    held = [
        (row.round, *(", ".join(n for n, did in row.holders.items() if did in said) for said in (_ECHOED, _ANSWERED)))
        for row in result.rounds
        if row.holders
    ]
    if held:
        lines += _table("holders", ("round", "have seen the record", "have answered"), held)
    sites = [
        (
            site,
            counts["in the sum"],
            ", ".join(f"{_word(r)} {n}" for r, n in sorted(counts.items()) if r != "in the sum"),
        )
        for site, counts in result.participation.items()
    ]
    lines += _table("participation", ("site", "sums", "left out"), sites)
    if (found := _suspects(result)) is not None:
        lines += _rejected(found)
    lines.append(_end(result))
    lines += [f"last record: {len(result.rounds)}, {result.head}", "  compare it with what a site has seen", ""]
    if result.ok:
        lines.append(f"verdict: everything holds, over {len(result.rounds)} records")
        if any(not one.confirmed for one in result.coordinators):
            lines.append(
                "  provided that the coordinators above are who they say: compare fingerprints with them, "
                "then give --coordinator-fingerprint"
            )
    else:
        lines.append("verdict: DOES NOT HOLD. The first violation of each kind:")
        lines += [f"  {_place(one.line)}{one.text} [{one.kind}]" for one in result.findings]
    return "\n".join(lines)


def _end(result: Audit) -> str:
    reason = result.rounds[-1].reason if result.rounds else None
    return f"the federation has ended: {'not by then' if reason is None else HOW_IT_ENDED[reason]}"


def _suspects(result: Audit) -> Suspects | None:
    if not result.rosters:
        return None
    newest = result.rosters[-1]
    return suspects(result.rounds, frozenset(newest.sites), newest.min_sites)


def _rejected(found: Suspects) -> list[str]:
    lines = [f"sums that most members rejected: {', '.join(found.rejected) or 'none'}"]
    lines += [f"  {site} has said other than most members of {', '.join(of)}" for site, of in found.against.items()]
    if found.named is not None:
        lines.append(f"  in all of them, and alone in that: {found.named}")
    elif found.rejected:
        lines.append(f"  in all of them: {', '.join(found.together) or 'nobody, so more than one site is at fault'}")
    if found.next_set:
        lines += [
            f"  to find out more, rehearse with {', '.join(found.next_set)}",
            "  with zeros only: who spoils a sum can open it, and of data two sums show what is in one of them only",
        ]
    return [*lines, ""]


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> list[str]:
    if not rows:
        return [f"{title}: none", ""]
    cells = [heads, *[tuple(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [title, *(f"  {line}" for line in padded), ""]


def _place(line: int) -> str:
    return f"line {line}: " if line else ""


def _when(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return str(seconds)  # further away than datetime goes


def _word(reason: str) -> str:
    """Return a reason as it may stand on a terminal."""
    return reason if re.fullmatch(r"[a-z0-9-]+", reason) else ascii(reason)
