"""What a hospital installs: the four packages with all their files, offline from one folder, and neither demo nor
benchmarks.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from urllib.request import urlopen

import pytest

from he_agg.host.processes import Process

ROOT = Path(__file__).parents[1]
PACKAGES = ("he_agg", "keys", "service", "client_sdk")
NO_NETWORK = ("error sending request", "dns error", "connection", "timed out", "network")


@pytest.fixture(scope="module")
def tracked():
    """All files that git tracks, by their path in the tree."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a checkout: git says which files there are")
    # Whoever owns the checkout: nothing of it is run.
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def checkout(tracked, tmp_path_factory):
    """A copy, since building leaves folders beside the sources."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def dist(checkout):
    """Wheel and sdist as a release makes them: the wheel is built from the sdist."""
    built = checkout / "dist"
    command = [sys.executable, "-m", "build", "--quiet", "--no-isolation", "--outdir", str(built)]
    run = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return built


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as found:
        yield found


@pytest.fixture(scope="module")
def bundle(checkout, dist):
    """The folder for a machine without internet."""
    command = [sys.executable, "deploy/bundle.py", "--dist", "dist", "--out", "bundle"]
    run = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if run.returncode and any(word in run.stderr.lower() for word in NO_NETWORK):
        pytest.skip(f"no package index from here: {run.stderr.splitlines()[-1]}")
    assert run.returncode == 0, run.stdout + run.stderr
    return checkout / "bundle"


def test_the_wheel_has_the_four_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_no_file_of_a_package_is_left_out(tracked, wheel):
    """Static files, pages and py.typed included, byte for byte."""
    of_packages = {name for name in tracked if name.split("/")[0] in PACKAGES}
    assert {Path(name).suffix for name in of_packages} >= {".py", ".md", ".js", ".css", ".html", ".svg", ".typed"}
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == of_packages
    assert [name for name in of_packages if wheel.read(name) != (ROOT / name).read_bytes()] == []


def test_the_sdist_has_all_that_git_tracks(tracked, dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as found:
        names = {name.partition("/")[2] for name in found.getnames()}
    assert set(tracked) - names == {".gitignore"}


def test_its_commands_are_those_of_its_packages(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    points = configparser.ConfigParser(delimiters="=")
    points.read_string(wheel.read(name).decode())
    commands = points["he_agg.commands"]
    assert "serve" in commands
    assert {target.split(".")[0] for target in commands.values()} <= set(PACKAGES)
    assert not [command for command in commands if command.split(".")[0] in ("demo", "bench")]


def test_it_installs_without_network_into_an_empty_environment_and_serves(bundle, tmp_path):
    """With no network at all where this user may cut it off; with no index anywhere."""
    cut = ["unshare", "--net"]
    alone = subprocess.run([*cut, "true"], capture_output=True, check=False).returncode == 0
    cut = cut if alone else []
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", tmp_path / "venv", "--disable-pip-version-check", "install"]
    offline = ["--no-compile", "--no-index", "--find-links", "wheels", "--require-hashes"]
    install = [*pip, *offline, "--requirement", "requirements.txt"]

    def run(*command):
        return subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True, check=False)

    (bundle / "wheels/click.kept").write_bytes(whole := (click := next(bundle.glob("wheels/click-*"))).read_bytes())
    click.write_bytes(whole[:-1] + b"x")
    refused = run(*cut, *install)
    assert (refused.returncode, "DO NOT MATCH THE HASHES" in refused.stderr) == (1, True), refused.stderr
    (bundle / "wheels/click.kept").replace(click)
    installed = run(*cut, *install)
    assert installed.returncode == 0, installed.stderr

    he_agg = tmp_path / "venv/bin/he-agg"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert run(*cut, he_agg, "--version").stdout == f"he-agg, version {version}\n"
    code = "import client_sdk, client_sdk.training, client_sdk.analytics, sys; print(client_sdk.__file__)"
    where = run(*cut, tmp_path / "venv/bin/python", "-P", "-c", code)
    assert where.stdout.startswith(str(tmp_path / "venv")), where.stderr
    with (
        Process(
            [str(he_agg), "serve", "--port", "0", "--data-dir", str(tmp_path / "data")], tmp_path / "log", environment
        ) as aggregator,
        urlopen(aggregator.listening() + "/readyz") as answer,
    ):
        assert answer.status == 200


def test_the_sbom_is_valid_and_names_all_that_is_installed(bundle):
    import json

    import jsonschema_rs

    # The official schemas. The library's own validator needs minutes for the formats of a hundred addresses.
    (path,) = bundle.glob("*.cdx.json")
    found = importlib.util.find_spec("cyclonedx.schema")
    assert found is not None
    assert found.submodule_search_locations
    files = Path(found.submodule_search_locations[0]) / "_res"
    schemas = {file.name: json.loads(file.read_text()) for file in files.glob("*.schema.json")}
    others = [(f"http://cyclonedx.org/schema/{name}", schema) for name, schema in schemas.items() if name[:3] != "bom"]
    registry = jsonschema_rs.Registry(others)
    strict = jsonschema_rs.validator_for(
        schemas["bom-1.6.SNAPSHOT.schema.json"], registry=registry, validate_formats=True
    )
    written = json.loads(path.read_text())
    assert [error.message for error in strict.iter_errors(written)] == []
    assert not strict.is_valid(written | {"what": "is not in the schema"})
    everything = [written["metadata"]["component"], *written["components"]]
    listed = re.findall(r"^([\w.-]+)==(\S+)", (bundle / "requirements.txt").read_text(), re.M)
    assert {(plain(each["name"]), each["version"]) for each in everything} == {(plain(n), v) for n, v in listed}
    assert len(listed) == len(list(bundle.glob("wheels/*.whl")))
    assert [each["name"] for each in everything if not each.get("licenses")] == []


def test_the_lock_pins_what_the_projects_ask_for():
    """With hashes; and CI has installed those very versions."""
    from packaging.requirements import Requirement

    text = (ROOT / "requirements.lock").read_text()
    pinned = {plain(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", text, re.M)}
    asked = []
    for folder in ("", "examples", "benchmarks"):
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        extras = project.get("optional-dependencies", {})
        names = re.split("[][,]", extras["dev"][0])[1:-1] if extras else []
        asked += [*project["dependencies"], *extras.get("dev", []), *(one for name in names for one in extras[name])]
    for requirement in map(Requirement, asked):
        if not requirement.name.startswith("he-agg"):
            assert requirement.specifier.contains(pinned[plain(requirement.name)]), requirement
    assert len(pinned) == len(re.findall(r"^\w\S*==.*\\\n    --hash=sha256:", text, re.M)) > 100
    if os.environ.get("CI"):
        there = {plain(one.name): one.version for one in importlib.metadata.distributions()}
        assert {name: there[name] for name in pinned if name in there} == {n: pinned[n] for n in pinned if n in there}


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_what_is_installed_beside_it_lists_all_of_its_packages(folder):
    listed = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / folder).rglob("*.py")}
    assert set(listed) == there
