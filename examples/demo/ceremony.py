"""What people do once before the first round, by the commands that docs/ceremony.md has for them.

Each hospital types in a directory of its own; only files that are not secret go from one to another. The hospital that
coordinates is one of the four. Where keys are split, all of them hold shares, and a trustee does who is no hospital.
What two people would compare over the phone is carried here by this program.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from he_agg import ConfigError, Plan, Reason
from he_agg.host.processes import AggregatorProcess, run_he_agg

__all__ = ["SETTINGS", "TRUSTEE", "TRUSTEE_SETTINGS", "found"]

SETTINGS = "site.toml"
TRUSTEE, TRUSTEE_SETTINGS = "trustee", "holder.toml"
ROSTER = "roster.json"


def found(
    aggregator: AggregatorProcess,
    plan: Plan,
    directories: dict[str, Path],
    trustee: Path | None = None,
    *,
    keep_submissions: bool = False,
) -> None:
    """Make identities, roster and group key; afterwards every hospital has a `site.toml` that works.

    Args:
        aggregator: it runs already.
        plan: what the hospitals agreed on.
        directories: one of each hospital, by its name; the first hospital coordinates.
        trustee: the trustee's directory, where keys are split; afterwards it has a `holder.toml`.
        keep_submissions: whether the aggregator keeps every single submission, as a curious one would.

    Raises:
        ConfigError: a command failed.
    """
    federation, names = plan.public.federation, list(directories)
    coordinator, at = names[0], directories[names[0]]
    _everywhere(directories, lambda name: ["site", "init", name, "--no-passphrase"])
    for name in names[1:]:
        shutil.copy(directories[name] / f"{name}.public.json", at)
    if trustee is not None:
        _type(trustee, "site", "init", TRUSTEE, "--no-passphrase")
        shutil.copy(trustee / f"{TRUSTEE}.public.json", at)
    aggregator.operate("aggregator", "show", "--out", str(at / "aggregator.public.json"))
    (at / "plan").write_bytes(plan.encode())

    members = [word for name in names for word in ("--site", f"{name}.public.json")]
    members += ["--coordinator", f"{coordinator}.public.json", "--aggregator", "aggregator.public.json"]
    if trustee is not None:
        members += [word for name in (*names, TRUSTEE) for word in ("--holder", f"{name}.public.json")]
    sites = str(plan.public.min_sites)
    _type(at, "roster", "new", federation, *members, "--min-sites", sites, "--out", "roster-1.json")
    _type(at, "roster", "sign", "roster-1.json", "--identity", f"{coordinator}.identity", "--yes")
    heard = _type(at, "keys", "show", f"{coordinator}.identity")["fingerprint"]
    for name in names[1:]:
        shutil.copy(at / "roster-1.json", directories[name])
    accept = ["roster", "accept", "roster-1.json", "--out", ROSTER, "--fingerprint", f"{coordinator}={heard}"]
    _everywhere(directories, lambda _: accept)

    keystore, bundle = f"{federation}.keystore", f"{federation}.epoch-1.bundle.json"
    _type(at, "epoch", "new", "--plan", "plan", "--roster", "roster-1.json", "--identity", f"{coordinator}.identity")
    document = str(at / f"{federation}.federation.json")
    keep = ["--keep-submissions"] if keep_submissions else []
    aggregator.operate("federation", "create", document, "--roster", str(at / "roster-1.json"), *keep)
    for name, directory in directories.items():
        (directory / SETTINGS).write_text(
            f'url = "{aggregator.url}"\nidentity = "{name}.identity"\nkeystore = "{keystore}"\nroster = "{ROSTER}"\n'
        )
    _type(at, "epoch", "publish", bundle, "--config", SETTINGS)
    _everywhere(directories, lambda _: ["epoch", "accept", "--config", SETTINGS])
    missing = _type(at, "epoch", "commitments", "--config", SETTINGS)["missing"]
    if missing:
        raise ConfigError(Reason.KEY_MISMATCH, f"the group key did not reach {', '.join(missing)}")
    if trustee is not None:
        _install_trustee(aggregator, at, trustee, f"{federation}.federation.json", heard)
    aggregator.operate("federation", "start", federation)


def _install_trustee(aggregator: AggregatorProcess, at: Path, trustee: Path, document: str, heard: str) -> None:
    """Give a trustee what it holds by: the roster, whose coordinator it has called, and the public half of the plan."""
    for name in ("roster-1.json", document):
        shutil.copy(at / name, trustee)
    accept = ["roster", "accept", "roster-1.json", "--out", ROSTER]
    coordinator = next(iter(at.glob("*.identity"))).stem
    _type(trustee, *accept, "--fingerprint", f"{coordinator}={heard}")
    (trustee / TRUSTEE_SETTINGS).write_text(
        f'url = "{aggregator.url}"\nidentity = "{TRUSTEE}.identity"\nplan = "{document}"\nroster = "{ROSTER}"\n'
    )


def _everywhere(directories: dict[str, Path], words: Any) -> None:
    """Every hospital types a command, in its own directory, at the same time."""
    with ThreadPoolExecutor(len(directories)) as pool:
        for _ in pool.map(lambda item: _type(item[1], *words(item[0])), directories.items()):
            pass


def _type(directory: Path, *words: str) -> Any:
    """Type one command in a hospital's directory.

    Returns:
        What it prints for scripts.

    Raises:
        ConfigError: it failed.
    """
    return json.loads(run_he_agg(*words, "--json", directory=directory).stdout)
