"""What a hospital installs: the four packages, and neither demo nor benchmarks."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("he_agg", "keys", "service", "client_sdk")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: setuptools leaves its folders beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*PACKAGES, "examples", "benchmarks", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "results", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    run = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    with zipfile.ZipFile(copy / run.stdout.splitlines()[-1]) as found:
        yield found


def test_the_wheel_has_the_four_packages_and_nothing_else(wheel):
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_no_file_of_a_package_is_left_out(wheel):
    expected = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", "py.typed", "static/*")
        for path in (ROOT / package).rglob(pattern)
        if path.is_file()
    }
    assert expected - set(wheel.namelist()) == set()


def test_its_commands_are_those_of_its_packages(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    points = configparser.ConfigParser(delimiters="=")
    points.read_string(wheel.read(name).decode())
    commands = points["he_agg.commands"]
    assert "serve" in commands
    assert {target.split(".")[0] for target in commands.values()} <= set(PACKAGES)
    assert not [command for command in commands if command.split(".")[0] in ("demo", "bench")]


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_what_is_installed_beside_it_lists_all_of_its_packages(folder):
    import tomllib

    listed = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / folder).rglob("*.py")}
    assert set(listed) == there
