"""Wrong use of the SDK is answered by a sentence with a next step, not by a traceback of something inside.

`HE_AGG_WRONG_USE=FILE` writes the list of all uses and sentences there.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from he_agg.errors import HeAggError, Reason
from he_agg.host.commands import main
from tests.client_sdk import wrong_uses
from tests.client_sdk.wrong_uses import answered
from tests.support.real import SITES

TOLD = os.environ.get("HE_AGG_WRONG_USE")
EXTRAS = {"sklearn": wrong_uses.sklearn_uses, "torch": wrong_uses.torch_uses, "pandas": wrong_uses.pandas_uses}
PLAIN = wrong_uses.UPDATES | wrong_uses.PLANS | wrong_uses.ADAPTERS | wrong_uses.QUESTIONS | wrong_uses.TRAININGS


def judge(name, error):
    """A closed reason, what was expected, and what to do: no address in memory, no inner exception."""
    assert isinstance(error, HeAggError), f"{name}: {error!r}"
    assert isinstance(error.reason, Reason)
    assert error.hint, f"{name}: no next step: {error}"
    for text in (error.message, error.hint, error.shell):
        assert "object at 0x" not in text
        assert "Traceback" not in text
        assert "pickle" not in text
        assert "\n" not in text
    assert len(error.message) < 600
    if TOLD:
        with Path(TOLD).open("a") as file:
            file.write(f"* {name} -> {error.message} [{error.reason}] *{error.hint}*\n")


@pytest.mark.parametrize("name", PLAIN)
def test_wrong_use(name):
    judge(name, answered(PLAIN[name]))


@pytest.mark.parametrize("extra", EXTRAS)
def test_wrong_use_of_frameworks(extra):
    pytest.importorskip(extra)
    for name, use in EXTRAS[extra]().items():
        judge(name, answered(use))


@pytest.fixture(scope="module")
def at_a_site(hospitals, tmp_path_factory):
    """Uses of a site; nothing is ever submitted to these two federations."""
    federation, other = (hospitals(tmp_path_factory.mktemp(name)) for name in ("one", "other"))
    return wrong_uses.site_uses(federation, other, tmp_path_factory.mktemp("folder"))


def test_wrong_use_of_a_site(at_a_site):
    assert len(at_a_site) > 20
    failed = []
    for name, use in at_a_site.items():
        try:
            judge(name, answered(use))
        except AssertionError as error:
            failed.append(str(error).splitlines()[0])
    assert failed == []


MEMBERS = "--site ? --coordinator ? --aggregator ?"
COMMANDS = {
    "a command that there is not": ("submitt", 2),
    "a command without its file": ("submit --weight 5 --config {config}", 2),
    "an update file that there is not": ("submit no.npz --weight 5 --config {config}", 4),
    "a folder as an update": ("submit . --weight 5 --config {config}", 2),
    "an update that is text": ("submit {config} --weight 5 --config {config}", 4),
    "no weight on the command line": ("submit {update} --config {config}", 2),
    "a weight that is a word": ("submit {update} --weight many --config {config}", 2),
    "a weight above the cap on the command line": ("submit {update} --weight 100000 --config {config}", 1),
    "a settings file that there is not": ("status --config no.toml", 4),
    "a settings file that is an update": ("status --config {update}", 4),
    "no settings file": ("status", 2),
    "a mean into a folder that there is not": ("fetch --config {config} --out no/mean.npz", 4),
    "a mean over a file": ("fetch --config {config} --out {update}", 4),
    "a round that is a word": ("fetch --config {config} --out m.npz --round latest", 1),
    "a round of another federation on the command line": ("fetch --config {config} --out m.npz --round else.1.1", 1),
    "a site with a space in its name": ("site init Hospital --no-passphrase", 1),
    "an identity over another": ("site init hospital-z --no-passphrase --out {update}", 4),
    "a roster of nobody": ("roster new demo", 2),
    "a roster of files that there are not": (f"roster new demo {MEMBERS.replace('?', 'no.json')}", 4),
    "a roster of files that are something else": (f"roster new demo {MEMBERS.replace('?', '{update}')}", 4),
    "a roster that there is not": ("roster verify no.json", 4),
    "a roster that is something else": ("roster verify {config}", 4),
    "a roster signed with no identity": ("roster sign {roster} --identity nobody", 4),
    "a roster signed with a keystore": ("roster sign {roster} --identity {keystore}", 4),
    "a plan of a model that there is not": ("plan new x --model no.npz --clip 1 --weight-cap 5 --max-sites 3", 4),
    "a plan without bound": ("plan new x --model {update} --weight-cap 5 --max-sites 3", 2),
    "a plan for one site on the command line": ("plan new x --model {update} --clip 1 --weight-cap 5 --max-sites 1", 1),
    "a plan that is something else": ("plan show {config}", 4),
    "a keystore that is something else": ("keys show {config}", 4),
    "a transcript that there is not": ("audit no.zip", 4),
    "a federation that there is not": ("federation show nowhere --data-dir {folder}", 1),
    "a data directory that there is not": ("federation show x --data-dir no-such-folder", 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(hospitals, tmp_path_factory):
    federation = hospitals(tmp_path_factory.mktemp("commands"))
    name = SITES[0]
    update = federation.directory(name) / "update.npz"
    np.savez(update, **federation.update(name).tensors)
    return {
        "config": federation.config(name),
        "update": update,
        "keystore": federation.directory(name) / "keystore",
        "roster": federation.directory(name) / "roster.json",
        "folder": federation.server.data_dir,
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_wrong_use_of_the_command_line(files, tmp_path, monkeypatch, capsys, name):
    line, code = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([word.format(**files) for word in line.split()])
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert end.value.code == code, err
    assert out == ""
    assert lines[0].startswith("he-agg: error: ")
    assert lines[1].startswith("he-agg: hint: "), err
    assert len(lines) == 2
    assert "Traceback" not in err
    if TOLD:
        with Path(TOLD).open("a") as file:
            typed = line.format(**{k: v.name for k, v in files.items()})
            file.write(f"* {name}: `he-agg {typed}` ends with {code} -> {lines[0][15:]} *{lines[1][14:]}*\n")
