"""The command `he-agg explain`: what a reason means, and what to do. It needs neither network nor files."""

from __future__ import annotations

from difflib import get_close_matches

import click

from he_agg.errors import Reason
from he_agg.explanations import EXPLANATIONS
from he_agg.host.commands import answer, json_option

__all__ = ["explain"]


@click.command()
@click.argument("reason")
@json_option
def explain(reason: str, as_json: bool) -> None:
    """Say what the reason of an error means, the word in brackets at its end, and what to do."""
    reasons = [one.value for one in Reason]
    if reason not in reasons:
        like = get_close_matches(reason, reasons, n=3, cutoff=0.4)
        raise click.BadParameter(f"{reason!r} is no reason of he-agg's; like it: {', '.join(like) or 'none'}")
    means, to_do = EXPLANATIONS[Reason(reason)]
    answer(
        {"reason": reason, "means": means, "to_do": to_do}, as_json, lambda: f"{reason}: {means}\nWhat to do: {to_do}"
    )
