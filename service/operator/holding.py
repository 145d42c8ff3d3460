"""Tell an operator about holders: who can take part, whom a published round waits for, and of whom they complain."""

from __future__ import annotations

from typing import Any

__all__ = ["awaited_line", "complaint_lines", "keys_line"]


def keys_line(shown: dict[str, Any]) -> str:
    """Say which holders have a sharing key, and whether they are enough. `shown` is a federation of `take_view`."""
    holding = shown["holding"]
    without = [one["holder"] for one in holding["holders"] if not one["has_key"]]
    having = len(holding["holders"]) - len(without)
    line = f"{having} of {len(holding['holders'])} have a sharing key of epoch {shown['epoch']}"
    if without:
        line += f", not {', '.join(without)}"
    return line if holding["ready"] else f"{line}: NO ROUND OPENS before {holding['quorum']} have one"


def awaited_line(awaited: dict[str, Any]) -> str:
    """Say what the holders of an awaited round have sent, and who has not."""
    said = []
    for what, word, needed in (("echoed", "echoes", "quorum"), ("answered", "answers", "threshold")):
        names = [one["holder"] for one in awaited["holders"] if one[what]]
        said.append(f"{len(names)} of {awaited[needed]} {word}" + (f" ({', '.join(names)})" if names else ""))
    return f"round {awaited['id']} waits for its holders: {', '.join(said)}; not yet {', '.join(awaited['waits_for'])}"


def complaint_lines(awaited: dict[str, Any]) -> list[str]:
    """Say who complains of whose dealing."""
    return [
        f"{one['holder']} complains of the dealing of {one['dealer']} in round {awaited['id']} ({one['fault']})"
        for one in awaited["complaints"]
    ]
