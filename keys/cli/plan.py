"""Commands of coordinators that make and look at plans: `he-agg plan`, `plan new` and `plan show`."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from he_agg.host.commands import FILE, Whole, answer, json_option, messages
from he_agg.plan.hybrid_explained import KEY_ROW, split_key
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.layout import Layout
from he_agg.plan.parameters import Parameters
from he_agg.plan.plan import KEYS, SHARED, SPLIT, Plan, check_keys, sections_of
from he_agg.plan.rounded import cap_trouble
from he_agg.plan.schemes import DEFAULT_CODEC, SCHEMES, scheme_of
from he_agg.plan.sections import part_places
from keys.files import read_npz, read_plan, write_new

__all__ = ["keys_option", "plan_choose", "plan_new", "plan_show"]


_KEYS = {
    "shared": "shared: every site has what opens any update, so the aggregator together with one of them reads all",
    "split": "split: one-time keys are dealt in shares to the roster's holders, who answer for one sum of a round; the "
    "aggregator with one site, or with few holders, reads no update",
}
_PART_BYTES = 4 * 2**20
_WIDTH = 110


keys_option = click.option(
    "--keys",
    type=click.Choice(KEYS),
    default=SHARED,
    show_default=True,
    help="How one-time keys travel: to all sites under the group key, or split among holders; see the roster's.",
)


@click.command("plan")
@click.option("--sites", type=Whole(2, 10_000), help="Most sites that can take part.")
@click.option("--bits", type=Whole(2, 24), default=16, show_default=True, help="Bits of one value.")
@click.option("--values", type=Whole(1, 2**36), default=10**7, show_default=True, help="Size of the model.")
@click.option("--codec", type=click.Choice(sorted(SCHEMES)), default=DEFAULT_CODEC, show_default=True)
@keys_option
@json_option
@click.pass_context
def plan_choose(
    ctx: click.Context, sites: int | None, bits: int, values: int, codec: str, keys: str, as_json: bool
) -> None:
    """Show the parameters for a number of sites and bits, and why; or make and show plans."""
    if sites is None:
        typed = ctx.parent or ctx  # `he-agg plan` is a group, too, and what is typed is the group's
        chosen = ("bits", "values", "codec", "keys")
        if any(typed.get_parameter_source(name) == ParameterSource.COMMANDLINE for name in chosen):
            raise click.UsageError("say how many sites can take part at most: --sites", typed)
        click.echo(typed.get_help())
        return
    parameters = scheme_of(codec).parameters.choose(2 ** (bits - 1) - 1, sites)
    check_keys(keys, codec, parameters, min(3, sites), sites)
    sections = sections_of(parameters, values, _PART_BYTES, keys)
    places = list(part_places(sections))
    wire = sum(place.wire_bytes for place in places)
    failure = parameters.failure_log2
    facts = {
        "codec": codec,
        "keys": keys,
        "sites": sites,
        "value_bits": bits,
        "profile": parameters.name,
        "parameters": parameters.to_json(),
        "sections": [{"name": s.name, "modulus": s.modulus, "bits": s.modulus_bits} for s in sections],
        "values": values,
        "bytes_up": wire,
        "parts": len(places),
        "bytes_per_value": round(wire / values, 3),
        "costs": [{"what": what, "bits_per_value": round(bits, 3)} for what, bits in parameters.costs],
        "security_bits": parameters.security_bits,
        "security_source": parameters.security_source,
        "modulus_bits": parameters.security_modulus_bits,
        "failure_log2": None if failure == -math.inf else round(failure, 1),
        "why": parameters.why,
    }
    answer(facts, as_json, lambda: _choice(facts, parameters))


def _choice(facts: dict[str, Any], parameters: Parameters) -> str:
    rows = [
        ("parameters", f"{facts['profile']} (codec {facts['codec']}), for sums of {facts['sites']} sites at most"),
        *_details(parameters, facts["keys"]),
        ("keys", _KEYS[facts["keys"]]),
        ("failure", _failure(facts["failure_log2"])),
        ("security", f"{_security(facts)}; {facts['security_source']}"),
        ("why", facts["why"]),
    ]
    return "\n".join([*(_row(*row) for row in rows), "", *_costs(facts, parameters)])


def _details(parameters: Parameters, keys: str) -> list[tuple[str, str]]:
    rows = dict(parameters.details)
    if keys == SPLIT and isinstance(parameters, HybridParameters):
        rows[KEY_ROW] = split_key(parameters)
    return list(rows.items())


def _row(name: str, text: str) -> str:
    return textwrap.fill(f"{name:<14}{text}", _WIDTH, subsequent_indent=" " * 14, break_on_hyphens=False)


def _costs(facts: dict[str, Any], parameters: Parameters) -> Iterator[str]:
    yield f"{'what a value costs':<26}{'bits':>8}{'bytes':>8}"
    rows = [*parameters.costs, ("residues of a value", parameters.bits_per_value)]
    yield from (f"  {what:<24}{bits:>8.3f}{bits / 8:>8.3f}" for what, bits in rows)
    rest_is = ("" if facts["keys"] == SPLIT else "key, ") + "headers, last bits"
    rest = facts["bytes_up"] - facts["values"] * parameters.bits_per_value / 8
    yield f"  {rest_is:<24}{8 * rest / facts['values']:>8.3f}{rest / facts['values']:>8.3f}"
    yield (
        f"  {'all of it':<24}{8 * facts['bytes_up'] / facts['values']:>8.3f}{facts['bytes_per_value']:>8.3f}   "
        f"{facts['bytes_up']:,} bytes in {facts['parts']} parts for {facts['values']:,} values; as float32 "
        f"{4 * facts['values']:,}"
    )


def _security(facts: dict[str, Any]) -> str:
    return f"{facts['security_bits']} bits or more at {facts['modulus_bits']} modulus bits"


def _failure(log2: float | None) -> str:
    if log2 is None:
        return "none: no noise that can occur rounds a value wrongly"
    return f"2^{log2} for one value of a full sum"


@click.command("new")
@click.argument("federation")
@click.option("--model", type=FILE, required=True, help="NPZ file whose arrays have the names and shapes of an update.")
@click.option("--clip", type=float, required=True, help="Bound on the absolute value of every element of an update.")
@click.option("--weight-cap", type=int, required=True, help="Largest sample count of a site; higher costs precision.")
@click.option("--max-sites", type=int, required=True, help="Most sites that can take part.")
@click.option(
    "--min-sites", type=int, help="Fewest sites in a published sum, by any roster. [default: 3, or as --max-sites]"
)
@click.option("--bits", "value_bits", type=int, default=16, show_default=True, help="Bits of one value, 2 to 24.")
@click.option("--codec", type=click.Choice(sorted(SCHEMES)), default=DEFAULT_CODEC, show_default=True)
@keys_option
@click.option("--rounds", type=int, default=100, show_default=True, help="Rounds at most.")
@click.option("--deadline", "deadline_s", type=int, default=3600, show_default=True, help="Seconds a round stays open.")
@click.option(
    "--sample-percent",
    type=Whole(1, 100),
    default=100,
    show_default=True,
    help="Sites invited to a round, of 100, never fewer than a sum needs; drawn so that every site can check it.",
)
@click.option("--out", type=FILE, help="Plan file to write. [default: FEDERATION.plan]")
@json_option
def plan_new(
    federation: str, model: Path, clip: float, weight_cap: int, out: Path | None, as_json: bool, **numbers: Any
) -> None:
    """Make a plan with the smallest parameters that are secure and exact for these sites and values."""
    layout = Layout.of(read_npz(model), clip=clip, weight_cap=weight_cap)
    plan = Plan.create(federation, layout, **numbers)
    path = out or Path(f"{federation}.plan")
    write_new(path, plan.encode())
    if trouble := cap_trouble(weight_cap, plan.public.value_bits):
        messages.print(trouble, markup=False, soft_wrap=True)
    answer({"file": str(path), **plan.explain()}, as_json, lambda: f"plan: {path}\n{_explain(plan)}")


@click.command("show")
@click.argument("file", type=FILE)
@json_option
def plan_show(file: Path, as_json: bool) -> None:
    """Show what a plan FILE agrees on, and what it costs."""
    plan = read_plan(file)
    tensors = [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "clip": s.clip} for s in plan.layout.tensors]
    answer(
        {**plan.explain(), "layout": tensors},
        as_json,
        lambda: "\n".join([_explain(plan), "tensors:", *(f"  {spec}" for spec in plan.layout.tensors)]),
    )


def _explain(plan: Plan) -> str:
    facts = plan.explain()
    invited = "all sites" if facts["sample_percent"] == 100 else f"{facts['sample_percent']} of 100 sites"
    rows = {
        "federation": f"{facts['federation']}, plan {facts['plan_id'][:12]}",
        "model": f"{facts['tensors']} tensors, {plan.layout.size:,} values of {facts['value_bits']} bits; "
        f"weights up to {facts['weight_cap']:,}",
        "sums": f"of {facts['min_sites']} to {facts['max_sites']} sites",
        "rounds": f"{facts['rounds']} at most, each open for {facts['deadline_s']} s; {invited} are invited",
        "codec": f"{facts['codec']}, {facts['profile']}",
        "keys": _KEYS[facts["keys"]],
        "security": f"{_security(facts)}, ring degree {facts['ring_degree']}; {facts['security_source']}",
        "failure": _failure(facts["failure_log2"]),
        "submission": f"{facts['bytes_up']:,} bytes in {facts['parts']} parts, {facts['bytes_per_value']:g} a value "
        "(float32: 4)",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())
