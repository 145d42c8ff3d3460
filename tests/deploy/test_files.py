"""Unit, users, container and compose files: checked by the tools that read them."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import yaml

from he_agg.host.commands import main

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = DEPLOY / "systemd/he-agg.service"
HE_AGG = Path(sys.executable).with_name("he-agg")


def tool(name):
    """A tool of this machine or of this environment, or a skip that says what is missing."""
    found = shutil.which(name) or shutil.which(Path(sys.executable).with_name(name))
    return found or pytest.skip(f"no {name} here")


def run(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def test_systemd_takes_the_unit(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/he-agg/bin/he-agg", str(HE_AGG)))
    verified = run(tool("systemd-analyze"), "verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=whenever"))
    assert "whenever" in run(tool("systemd-analyze"), "verify", unit).stderr


def test_the_unit_is_closed_as_far_as_systemd_can_tell(tmp_path):
    """1.3 of 10 with systemd 252, where 10 is a service without any of it."""
    scored = run(tool("systemd-analyze"), "security", "--offline=yes", "--threshold=20", UNIT)
    if "unrecognized option" in scored.stderr:  # older than 250
        pytest.skip("this systemd scores running services only")
    assert scored.returncode == 0, scored.stdout


def test_its_command_is_one_of_ours():
    (line,) = re.findall(r"^ExecStart=\S+ (.*)$", UNIT.read_text(), re.M)
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--help"])
    assert ended.value.code == 0


def test_user_and_folders_are_made(tmp_path):
    for kind in ("sysusers", "tmpfiles"):
        folder = tmp_path / f"etc/{kind}.d"
        folder.mkdir(parents=True)
        shutil.copy(DEPLOY / f"systemd/he-agg.{kind}.conf", folder / "he-agg.conf")
    made = run(tool("systemd-sysusers"), f"--root={tmp_path}")
    assert made.returncode == 0, made.stderr
    (user,) = re.findall(r"^he-agg:x:(\d+):.*:/var/lib/he-agg:.*nologin$", (tmp_path / "etc/passwd").read_text(), re.M)
    assert 0 < int(user) < 1000
    assert "\nUser=he-agg\nGroup=he-agg\n" in UNIT.read_text()
    made = run(tool("systemd-tmpfiles"), f"--root={tmp_path}", "--create", "he-agg.conf")
    if "Operation not permitted" in made.stderr:
        pytest.skip("needs root to give folders to a user")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "etc/he-agg").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "etc/he-agg/environment").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "var/lib/he-agg").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "var/lib/he-agg").stat().st_uid == int(user)


def test_a_linter_finds_nothing_wrong_with_the_container_file(tmp_path):
    linted = run(tool("hadolint"), DEPLOY / "Containerfile")
    assert (linted.returncode, linted.stdout) == (0, "")
    bad = tmp_path / "Containerfile"
    bad.write_text((DEPLOY / "Containerfile").read_text().replace("RUN --mount", "RUN cd / && true\nRUN --mount"))
    assert "DL3003" in run(tool("hadolint"), bad).stdout


def test_the_container_runs_as_nobody_in_particular():
    text = (DEPLOY / "Containerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[-2] == 'ENTRYPOINT ["/opt/he-agg/bin/he-agg"]'
    assert "USER 10001:10001" in lines[: lines.index(lines[-2])]
    assert not re.search(r"KEY|PASS|SECRET|TOKEN", text)


def test_the_compose_file_fits_its_schema():
    found = importlib.util.find_spec("check_jsonschema")  # to import it takes seconds
    assert found
    assert found.submodule_search_locations
    schemas = Path(found.submodule_search_locations[0]) / "builtin_schemas/vendor"
    schema = jsonschema_rs.validator_for(json.loads((schemas / "compose-spec.json").read_text()))
    text = (DEPLOY / "compose.yaml").read_text()
    assert [error.message for error in schema.iter_errors(yaml.safe_load(text))] == []
    assert not schema.is_valid(yaml.safe_load(text.replace("read_only: true", "readonly: true")))


def test_its_command_serves_with_a_certificate_of_its_own():
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    with pytest.raises(SystemExit) as ended:
        main([*service["command"], "--help"])
    assert ended.value.code == 0
    assert {"--self-signed", "--url"} <= set(service["command"])
    assert (service["user"], service["read_only"], service["cap_drop"]) == ("10001:10001", True, ["ALL"])
    health = service["healthcheck"]["test"]
    assert compile(health[3], "healthcheck", "exec")
