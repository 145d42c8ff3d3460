"""Make the plan of a new federation: from an example of an update, or from what is given by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from he_agg.host.commands import FILE, Whole, messages
from he_agg.plan.layout import Layout
from he_agg.plan.plan import KEYS, SHARED, SPLIT, Plan
from he_agg.plan.proposal import propose
from keys.files import read_npz, read_plan
from keys.founding import MOST_HOLDING_SITES

__all__ = ["ask", "plan_of", "plan_options"]

F = TypeVar("F", bound=Callable[..., Any])

FEWEST_HOLDERS = 4
"""Of three none may be away, so three sites share a key unless they ask a trustee, or for it."""

_OPTIONS = (
    click.option("--update", type=FILE, help="NPZ file with one update, as your training makes it."),
    click.option("--weight", type=Whole(1), help="Sample count behind that update."),
    click.option("--model", type=FILE, help="Instead of --update: names and shapes. Needs --clip and --weight-cap."),
    click.option("--clip", type=float, help="Bound on all entries. [default: one for each tensor, from the update]"),
    click.option("--weight-cap", type=Whole(1), help="Largest sample count. [default: from --weight]"),
    click.option("--bits", type=Whole(2, 24), help="Bits of one value. [default: what the update needs]"),
    click.option("--max-sites", type=int, help="Most sites that can take part. [default: twice as many, at least 8]"),
    click.option("--rounds", type=int, default=100, show_default=True, help="Rounds at most."),
    click.option("--deadline", "deadline_s", type=int, default=3600, show_default=True, help="Seconds of a round."),
    click.option(
        "--keys",
        type=click.Choice(KEYS),
        help="How one-time keys travel: to all sites under the group key, or split among holders, so that one site and "
        f"the aggregator together read nothing. [default: split for {FEWEST_HOLDERS} to {MOST_HOLDING_SITES} holders]",
    ),
    click.option("--plan", "plan_file", type=FILE, help="A plan file that was made before, instead of all these."),
)


def plan_options(command: F) -> F:
    """Add the options that say what the plan is."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def plan_of(federation: str, sites: int, given: dict[str, Any], trustees: int = 0) -> Plan:
    """Make the plan that the options ask for, or read it; a person sees what is proposed, and agrees.

    Args:
        sites: how many there are now.
        given: the values of `plan_options`.
        trustees: how many holders there are who are no sites.
    """
    if given["plan_file"] is not None:
        return read_plan(given["plan_file"])
    model: Path | None = given["model"]
    update: Path | None = given["update"]
    if model is not None and update is not None:
        raise click.UsageError("expected --update or --model, got both")
    if model is None and update is None:
        update = Path(ask("NPZ file with one update, as your training makes it", "--update FILE.npz"))
    cap, clip, bits = given["weight_cap"], given["clip"], given["bits"]
    if model is not None:
        if clip is None or cap is None:
            raise click.UsageError("--model says nothing about sizes: expected --clip and --weight-cap with it")
        layout = Layout.of(read_npz(model), clip=clip, weight_cap=cap)
    else:
        tensors = read_npz(update or Path())
        weight = given["weight"] or int(ask("Sample count behind that update", "--weight N"))
        proposal = propose(tensors, weight, clip=clip, weight_cap=cap, value_bits=bits)
        layout, bits = proposal.layout, proposal.value_bits
        messages.print("\n".join(proposal.rows), markup=False, soft_wrap=True)
        if sys.stdin.isatty():
            click.confirm("Shall all agree on this? (To choose: --clip, --weight-cap, --bits)", abort=True, err=True)
    most = given["max_sites"] or max(8, 2 * sites)
    terms = {name: given[name] for name in ("rounds", "deadline_s")}
    least = min(3, given["min_sites"] or 3)
    keys = given["keys"] or _usual_keys(sites + trustees, least)
    return Plan.create(federation, layout, max_sites=most, min_sites=least, value_bits=bits or 16, keys=keys, **terms)


def _usual_keys(holders: int, min_sites: int) -> str:
    """Return how keys travel unless somebody says otherwise: split where one holder may be away."""
    return SPLIT if FEWEST_HOLDERS <= holders <= MOST_HOLDING_SITES and min_sites >= 3 else SHARED


def ask(question: str, missing: str) -> str:
    """Ask for what was not given, if there is a terminal.

    Args:
        missing: what to give, in the error for a place without a terminal.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"expected {missing}, and there is no terminal to ask on")
    answered: str = click.prompt(question, err=True)
    return answered
