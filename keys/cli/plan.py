"""Commands of coordinators that make and look at plans: `he-agg plan`, `plan new` and `plan show`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from he_agg.host.commands import FILE, answer, json_option, messages
from he_agg.plan.layout import Layout
from he_agg.plan.plan import Plan
from he_agg.plan.rounded import cap_trouble
from he_agg.plan.schemes import DEFAULT_CODEC, SCHEMES, scheme_of
from he_agg.plan.sections import part_places
from keys.files import read_npz, read_plan, write_new

__all__ = ["plan_choose", "plan_new", "plan_show"]


@click.command("plan")
@click.option("--sites", type=click.IntRange(2, 10_000), help="Most sites that can take part.")
@click.option("--bits", type=click.IntRange(2, 24), default=16, show_default=True, help="Bits of one value.")
@click.option("--values", type=click.IntRange(1, 2**36), default=10**7, show_default=True, help="Size of the model.")
@click.option("--codec", type=click.Choice(sorted(SCHEMES)), default=DEFAULT_CODEC, show_default=True)
@json_option
@click.pass_context
def plan_choose(ctx: click.Context, sites: int | None, bits: int, values: int, codec: str, as_json: bool) -> None:
    """Show the parameters for a number of sites and bits, and why; or make and show plans."""
    if sites is None:
        click.echo((ctx.parent or ctx).get_help())
        return
    magnitude = 2 ** (bits - 1) - 1
    parameters = scheme_of(codec).parameters.choose(magnitude, sites)
    sections = parameters.sections(values, 4 * 2**20)
    wire = sum(place.wire_bytes for place in part_places(sections))
    failure = parameters.failure_log2
    facts = {
        "codec": codec,
        "profile": parameters.name,
        "sections": [{"name": s.name, "modulus": s.modulus, "bits": s.modulus_bits} for s in sections],
        "bytes_per_value": round(wire / values, 3),
        "security_bits": parameters.security_bits,
        "modulus_bits": parameters.security_modulus_bits,
        "failure_log2": None if failure == -math.inf else round(failure, 1),
        "why": parameters.why,
    }
    answer(facts, as_json, lambda: _choice(facts, values))


def _choice(facts: dict[str, Any], values: int) -> str:
    moduli = ", ".join(f"{s['name']}: {s['bits']} bits ({s['modulus']})" for s in facts["sections"])
    failure = facts["failure_log2"]
    rows = {
        "parameters": facts["profile"],
        "moduli": moduli,
        "bytes a value": f"{facts['bytes_per_value']:.3f} at {values:,} values, everything included (float32: 4)",
        "security": f"{facts['security_bits']} bits or more, {facts['modulus_bits']} modulus bits",
        "failure": "none: no noise that can occur rounds a value wrongly"
        if failure is None
        else f"2^{failure} for one value of a full sum",
        "why": facts["why"],
    }
    return "\n".join(f"{name:<14}{text}" for name, text in rows.items())


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
@click.option("--rounds", type=int, default=100, show_default=True, help="Rounds at most.")
@click.option("--deadline", "deadline_s", type=int, default=3600, show_default=True, help="Seconds a round stays open.")
@click.option(
    "--sample-percent",
    type=click.IntRange(1, 100),
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
    failure = facts["failure_log2"]
    rows = {
        "federation": f"{facts['federation']}, plan {facts['plan_id'][:12]}",
        "model": f"{facts['tensors']} tensors, {plan.layout.size:,} values of {facts['value_bits']} bits; "
        f"weights up to {facts['weight_cap']:,}",
        "sums": f"of {facts['min_sites']} to {facts['max_sites']} sites",
        "rounds": f"{facts['rounds']} at most, each open for {facts['deadline_s']} s; {invited} are invited",
        "codec": f"{facts['codec']}, {facts['profile']}",
        "security": f"{facts['security_bits']} bits or more: ring degree {facts['ring_degree']}, "
        f"{facts['modulus_bits']} modulus bits",
        "failure": "none: no noise that can occur rounds a value wrongly"
        if failure is None
        else f"2^{failure} for one value of a full sum",
        "submission": f"{facts['bytes_up']:,} bytes in {facts['parts']} parts, {facts['bytes_per_value']:g} a value "
        "(float32: 4)",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())
