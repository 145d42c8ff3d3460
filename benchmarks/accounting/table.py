"""The table of an accounting, Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["table"]


def table(report: dict[str, Any]) -> str:
    """Return the tables of all processes, one column for each transport."""
    lines = [
        "# Where the processor seconds go",
        "",
        f"One round, {report['values']:,} values x {report['sites']} sites, {report['scheme']}, mean of "
        f"{report['rounds']} rounds, milliseconds of the processor.",
        f"By `{report['command']}` on {report['machine']['cores']} cores ({report['machine']['cpu']}).",
    ]
    for kind in dict.fromkeys(row["role"] for row in report["rows"]):
        rows = {row["transport"]: row for row in report["rows"] if row["role"] == kind}
        lines += ["", f"## One {kind}" if kind == "site" else f"## The {kind}", ""]
        lines += _lines(rows)
    return "\n".join(lines) + "\n"


def _lines(rows: dict[str, dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for row in rows.values() for name in row["seconds"])
    lines = [_line("activity", *(f"{transport}, ms | page faults" for transport in rows))]
    lines.append(_line("---", *["---: | ---:"] * len(rows)))
    for name in names:
        cells = [(row["seconds"].get(name, 0.0) * 1000, row["faults"].get(name, 0.0)) for row in rows.values()]
        if any(ms >= 0.05 for ms, _ in cells):
            lines.append(_line(name, *(f"{ms:.1f} | {faults:,.0f}" for ms, faults in cells)))
    each = rows.values()

    def whole(name: str, *cells: str) -> None:
        lines.append(_line(name, *(f"{cell} |" for cell in cells)))

    whole("**accounted**", *(f"**{100 * row['accounted']:.1f} %**" for row in each))
    lines.append(
        _line(
            "**the process**",
            *(f"**{row['process']['seconds'] * 1000:.0f}** | {row['process']['page_faults']:,.0f}" for row in each),
        )
    )
    whole("of it in the kernel", *(f"{row['process']['system_seconds'] * 1000:.0f}" for row in each))
    whole("the same without clocks", *(f"{row['seconds_without_clocks'] * 1000:.0f}" for row in each))
    whole("processor seconds per GB moved, without", *(f"{_per_gb(row):.2f}" for row in each))
    whole("MB hashed", *(f"{row['bytes'].get('SHA-256', 0) / 1e6:.0f}" for row in each))
    whole("waits (voluntary switches)", *(f"{row['process']['waits']:,.0f}" for row in each))
    whole("preemptions", *(f"{row['process']['preemptions']:,.0f}" for row in each))
    for share in ("copies in the process", "copies by the kernel", "new pages"):
        if all(row["sampled"] for row in each):
            whole(f"sampled: {share}", *(f"{100 * row['sampled'].get(share, 0.0):.0f} %" for row in each))
    return lines


def _per_gb(row: dict[str, Any]) -> float:
    return float(row["seconds_without_clocks"] / (row["moved_bytes"] / 1e9))


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
