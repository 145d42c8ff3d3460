"""The report: one HTML page that needs nothing else, and the same pictures as PNG files."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Any

from benchmarks.rounds.budget import budget
from benchmarks.rounds.charts import CHARTS, png

__all__ = ["write_page"]

_STYLE = """
:root{color-scheme:light dark;--ink:#111;--page:#fff;--line:#ddd;--code:#f3f4f6;--small:#555;--no:#b42318;--yes:#067647}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--page:#0d1117;--line:#30363d;--code:#21262d;--small:#9da7b3;
--no:#ff7b72;--yes:#3fb950}}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1.5rem;color:var(--ink);
background:var(--page)}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p{margin:.4rem 0}
table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
.wide{overflow-x:auto}img{max-width:100%;height:auto}code{background:var(--code);padding:.1rem .3rem}
.no{color:var(--no);font-weight:600}.yes{color:var(--yes);font-weight:600}.small{color:var(--small);font-size:.86rem}
"""


def write_page(report: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """Write the page and its pictures.

    Args:
        report: a result.
        folder: where to.
        name: of the page, without `.html`; pictures are called `NAME-<picture>.png`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {chart: png(report, chart) for chart in CHARTS}
    files = []
    for chart, data in pictures.items():
        files.append(folder / f"{name}-{chart}.png")
        files[-1].write_bytes(data)
    page = folder / f"{name}.html"
    page.write_text(_page(report, pictures), encoding="utf-8")
    return [page, *files]


def _page(report: dict[str, Any], pictures: dict[str, bytes]) -> str:
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    out = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>he-agg: rounds against plaintext</title><style>{_STYLE}</style></head><body><main>",
        "<h1>Rounds against plaintext</h1>",
        f"<p>{_(report['date'])} · {_(machine['cpu'])}, {machine['cores']} cores"
        f"{'' if report['complete'] else ' · <b>not complete</b>'}</p>{_commands(report['command'])}",
        '<p class="small">Sites and aggregator are processes of their own on this machine and share its cores. A round '
        "lasts from the common start signal until the last site has the mean. Schemes take turns within a repetition; "
        "ratios are to plaintext of the same repetition, medians with least and most. Links are shaped by "
        f"{_(report['shaping'])}, one for each site.</p>",
    ]
    out += [*_promises(report), *_budget(report)]
    for chart, data in pictures.items():
        title = CHARTS[chart][0]
        image = base64.b64encode(data).decode("ascii")
        out.append(f'<h2>{_(title)}</h2><img alt="{_(title)}: figures are in the table below" ')
        out.append(f'src="data:image/png;base64,{image}">')
    out += [*_rows(report), *_opponent(), f'<h2>Versions</h2><p class="small">{_(versions)}</p>']
    return "".join(out) + "</main></body></html>\n"


def _commands(text: str) -> str:
    """What was run: one command as it is, several behind a line that opens."""
    lines = "".join(f"<li><code>{_(each)}</code></li>" for each in text.split("; "))
    count = text.count("; ") + 1
    opened = " open" if count == 1 else ""
    return (
        f"<details{opened}><summary>measured by {count} command{'s' * (count > 1)}</summary><ul>{lines}</ul></details>"
    )


def _promises(report: dict[str, Any]) -> list[str]:
    found = report.get("promises", [])
    if not found:
        return []
    rows = []
    for each in found:
        verdict = '<span class="yes">holds</span>' if each["holds"] else '<span class="no">falls short</span>'
        what = "bytes up + down" if each["figure"].startswith("bytes") else "round time"
        durable = each.get("ratio_to_plaintext_durable")
        cells = [f"{each['scheme']}, {each['link']}: {what}", f"{each['at_most']:.2f} x", f"{each['measured']:.3f} x"]
        cells.append("" if durable is None else f"{durable:.3f} x")
        rows.append([*map(_, cells), verdict])
    head = ["", "at most", "measured", "against plaintext-durable", ""]
    return ["<h2>Promised, for 10⁷ values and 3 sites</h2>", _table(head, rows)]


def _budget(report: dict[str, Any]) -> list[str]:
    found = budget(report)
    if not found:
        return []
    limits = report["limits"]
    names = {
        "memory_copy": "memory copy",
        "aes_keystream": "AES keystream",
        "sha256": "SHA-256",
        "write_fsync": "write + fsync",
        "loopback_tcp": "loopback TCP",
    }
    measured = ", ".join(f"{names[name]} {value / 1e9:.2f} GB/s" for name, value in limits.items())
    links = ", ".join(f"{link} {rate * 8 / 1e6:,.0f} Mbit/s" for link, rate in report["link_bytes_per_s"].items())
    floors = {
        "link s": "link",
        "fsync s": "write_fsync",
        "SHA-256 s": "sha256",
        "AES s": "aes_keystream",
        "memory s": "memory_copy",
    }
    rows = []
    for each in found:
        largest = f"{each['largest']} {each['largest_s']:.2f}"
        cells = [each["link"], each["model"], f"{each['round_s']:.2f}", largest, each["limit"]]
        cells += [f"{each['floors'][name]:.2f}" for name in floors.values()]
        rows.append([_(cell) for cell in [*cells, f"{each['cpu_s_per_core']:.2f}"]])
    head = ["link", "model", "round s", "largest phase", "nearest limit", *floors, "processor s"]
    return [
        "<h2>Budget: where the time goes, and what the machine allows</h2>",
        f'<p class="small">Limits of this machine, measured in the same run: {_(measured)}'
        f"{'; a plain socket through the link: ' + _(links) if links else ''}. "
        "The columns of seconds say how long a round of hybrid 16 would take at least if that limit were all there is; "
        "processor time is of all processes, by the number of cores. The nearest limit is the largest of them.</p>",
        _table(head, rows),
    ]


def _rows(report: dict[str, Any]) -> list[str]:
    head = ["scheme", "model", "sites", "link", "round s", "least", "most", "ratio", "MB up", "MB down"]
    rows, skipped = [], []
    for row in report["rows"]:
        if "skipped" in row:
            skipped.append([_(str(row[name])) for name in ("label", "model", "sites", "link", "skipped")])
            continue
        cells = [row["label"], row["model"], str(row["sites"]), row["link"]]
        cells += [f"{row[name]:.3f}" for name in ("round_s_median", "round_s_min", "round_s_max")]
        cells += [f"{row['ratio_to_plaintext']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"]
        cells += [f"{row['bytes_up'] / 1e6:.3f}", f"{row['bytes_down'] / 1e6:.3f}"]
        rows.append([_(cell) for cell in cells])
    out = ["<h2>All rows</h2>", _table(head, rows)]
    if skipped:
        out += ["<h2>Left out</h2>", _table(["scheme", "model", "sites", "link", "why"], skipped)]
    return out


def _opponent() -> list[str]:
    from benchmarks.rounds import plaintext_service

    paragraphs = (plaintext_service.__doc__ or "").split("\n\n")[:3]
    return ["<h2>The opponent</h2>", *(f"<p>{_(paragraph)}</p>" for paragraph in paragraphs)]


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _(text: str) -> str:
    return html.escape(text)
