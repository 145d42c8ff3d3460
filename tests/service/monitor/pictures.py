"""Draws the operators' page for the README: a real server, two federations, a real browser.

Run as ``python -m tests.service.monitor.pictures docs/images``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.service.monitor.browser import chromium, size, text
from tests.service.monitor.watched import watched_server
from tests.support.peers import make_plan, prepare
from tests.support.real import RealFederation, until

SITES = ["geriatric-centre", "outpatient-clinic", "rural-hospital", "university-hospital"]
VALUES = 200_000
ROUNDS_S = (1.2, 0.8, 1.5, 0.9, 1.1, 2.0, 1.3, 0.7)
"""How long the last site of each round before takes. Units: seconds."""


def main(folder: Path) -> None:
    """Write `dashboard.png` and `dashboard-phone.png`."""
    with tempfile.TemporaryDirectory() as root, watched_server(Path(root) / "data") as watched:
        stroke = RealFederation(
            watched.server, make_plan("stroke", values=VALUES, min_sites=3, rounds=50, deadline_s=7200), SITES
        )
        trauma = RealFederation(
            watched.server, make_plan("trauma", values=VALUES, rounds=20, deadline_s=3600), SITES[1:]
        )
        for number, seconds in enumerate(ROUNDS_S):
            _play(stroke, number, SITES, seconds)
        _play(trauma, 0, SITES[1:2])
        _play(stroke, len(ROUNDS_S), SITES[1:3])
        uploading = prepare(stroke.plan, stroke.round_id, SITES[3], 99)
        some = uploading.parts[: len(uploading.parts) * 3 // 5]
        assert stroke.peer(SITES[3]).put(uploading, 0, b"".join(some)).status_code == 204
        with chromium(Path(root) / "profile") as browser:
            size(browser, 1280, 968)
            browser.get(watched.new_link())
            until(lambda: text(browser, "#connection-text") == "Live" and "Uploading" in text(browser, "main"))
            browser.save_screenshot(str(folder / "dashboard.png"))
            size(browser, 390, 980, dark=True)
            time.sleep(1)  # colours fade over
            browser.save_screenshot(str(folder / "dashboard-phone.png"))


def _play(world: RealFederation, number: int, sites: list[str], last_takes_s: float = 0.0) -> None:
    round_id = world.round_id
    for i, site in enumerate(sites):
        prepared = prepare(world.plan, round_id, site, 10 * number + i)
        if site == sites[-1]:
            time.sleep(last_takes_s)
        assert world.peer(site).submit(prepared).status_code == 200
    if len(sites) == len(world.sites):
        assert world.peer().record(round_id, wait=20).status_code == 200


if __name__ == "__main__":
    main(Path(sys.argv[1]))
