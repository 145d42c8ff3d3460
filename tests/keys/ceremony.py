"""Commands typed at hospitals, as docs tell them, and files carried between them."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from he_agg import Plan
from he_agg.documents.public_file import PublicFile
from he_agg.host.commands import main
from keys import GroupKey
from tests.keys.dealing import AGGREGATOR, COORDINATORS, SITES


class Ceremony:
    """Commands typed in the directories of the hospitals, and files carried between them."""

    def __init__(self, root: Path, capsys, monkeypatch) -> None:
        self.root, self._capsys, self._monkeypatch = root, capsys, monkeypatch

    def run(self, name: str, line: str, expect: int = 0) -> str:
        """Type one command at a hospital. Returns stdout, and stderr if it was refused."""
        directory = self.root / name
        directory.mkdir(exist_ok=True)
        self._monkeypatch.chdir(directory)
        with pytest.raises(SystemExit) as caught:
            main(shlex.split(line))
        captured = self._capsys.readouterr()
        assert caught.value.code == expect, captured.err
        assert "Traceback" not in captured.err
        return captured.err if expect else captured.out

    def json(self, name: str, line: str) -> dict:
        """The same, with what it prints for scripts."""
        return json.loads(self.run(name, f"{line} --json"))

    def send(self, file: str, source: str, *targets: str) -> None:
        """Carry a file that is not secret."""
        for target in targets:
            if target == source:
                continue
            (self.root / target).mkdir(exist_ok=True)
            shutil.copy(self.root / source / file, self.root / target / file)

    def fingerprint(self, name: str) -> str:
        """What a member reads over the phone, off its own identity."""
        return self.json(name, f"keys show {name}.identity")["fingerprint"]

    def key(self, name: str, file: str = "demo.keystore") -> GroupKey:
        """The key in a keystore."""
        return GroupKey.load(self.root / name / file)

    def heard(self, *names: str) -> str:
        """Options for fingerprints that were heard."""
        return " ".join(f"--fingerprint {name}='{self.fingerprint(name)}'" for name in names)


def found(
    ceremony: Ceremony,
    sites=SITES,
    aggregator: bytes | None = None,
    spread_bundle: bool = True,
    plan: Plan | None = None,
    roster_options: str = "",
) -> None:
    """From nothing to a federation in epoch 1."""
    for name in sites:
        ceremony.run(name, f"site init {name}")
        ceremony.send(f"{name}.public.json", name, "hospital-a")
    at = ceremony.root / "hospital-a"
    (at / "aggregator.public.json").write_bytes(aggregator or PublicFile(AGGREGATOR).encode())
    if plan is None:
        np.savez(at / "model.npz", w=np.zeros((3, 2)))
        ceremony.run(
            "hospital-a", "plan new demo --model model.npz --clip 1 --weight-cap 10 --max-sites 5 --codec ckks --bits 8"
        )
    else:
        (at / "demo.plan").write_bytes(plan.encode())
    members = " ".join(
        [f"--site {name}.public.json" for name in sites]
        + [f"--coordinator {name}.public.json" for name in COORDINATORS]
    )
    ceremony.run(
        "hospital-a",
        f"roster new demo {members} --aggregator aggregator.public.json --out roster-1.json {roster_options}",
    )
    sign(ceremony, "roster-1.json")
    for name in sites:
        ceremony.send("roster-1.json", "hospital-a", name)
        ceremony.run(
            name, f"roster accept roster-1.json --out roster.json {ceremony.heard('hospital-a', 'hospital-b')}"
        )
    ceremony.run("hospital-a", "epoch new --plan demo.plan --roster roster-1.json --identity hospital-a.identity")
    if spread_bundle:
        spread(ceremony, 1, sites)


def sign(ceremony: Ceremony, file: str, options: str = "") -> None:
    """Two of three sign, one after the other."""
    ceremony.run("hospital-a", f"roster sign {file} --identity hospital-a.identity {options}")
    ceremony.send(file, "hospital-a", "hospital-b")
    ceremony.run("hospital-b", f"roster sign {file} --identity hospital-b.identity")
    ceremony.send(file, "hospital-b", "hospital-a")


def settings(ceremony: Ceremony, name: str, url: str, *more: str) -> Path:
    """A site's settings file, as docs/ceremony.md shows it."""
    lines = [f'url = "{url}"', f'identity = "{name}.identity"', 'keystore = "demo.keystore"', 'roster = "roster.json"']
    path = ceremony.root / name / "site.toml"
    path.write_text("\n".join([*lines, *more]) + "\n")
    return path


def spread(ceremony: Ceremony, epoch: int, sites) -> None:
    """The bundle goes to every site, the commitments to everybody, and they agree."""
    bundle = f"demo.epoch-{epoch}.bundle.json"
    for name in sites:
        if name == "hospital-a":
            continue
        ceremony.send(bundle, "hospital-a", name)
        ceremony.run(
            name, f"epoch accept {bundle} --identity {name}.identity --roster roster.json --keystore demo.keystore"
        )
        ceremony.send(f"{name}.epoch-{epoch}.commitment.json", name, "hospital-a")
    files = " ".join(f"{name}.epoch-{epoch}.commitment.json" for name in sites)
    facts = ceremony.json("hospital-a", f"keys check-commitments {files} --roster roster.json --keystore demo.keystore")
    assert facts["sites"] == list(sites)
    assert len({ceremony.key(name).key_id for name in sites}) == 1
    assert facts["key_id"] == ceremony.key(sites[-1]).key_id
