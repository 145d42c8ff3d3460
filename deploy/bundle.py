"""Make the folder that installs he-agg where there is no internet: wheels, their hashes, the sources, and an SBOM.

    python deploy/bundle.py --extras server,postgres,s3 --system linux-x86_64 --python 3.12

Versions and hashes are those of requirements.lock: a file with another hash is not taken. The folder can be made for
another system and Python than this one's; nothing of it is executed here.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
GLIBC = range(28, 16, -1)
"""From the glibc of Debian 10 and RHEL 8 down, newest first."""


def _manylinux(machine: str) -> list[str]:
    return [*(f"manylinux_2_{minor}_{machine}" for minor in GLIBC), f"manylinux2014_{machine}"]


SYSTEMS = {
    "linux-x86_64": ("x86_64-manylinux_2_28", _manylinux("x86_64")),
    "linux-aarch64": ("aarch64-manylinux_2_28", _manylinux("aarch64")),
    "macos-arm64": ("aarch64-apple-darwin", ["macosx_14_0_arm64"]),
    "windows-x86_64": ("x86_64-pc-windows-msvc", ["win_amd64"]),
}
"""What uv calls a system, and which wheels run on it."""


def this_system() -> str:
    """Name the system that this runs on, as SYSTEMS does."""
    name = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    return f"{name}-{platform.machine().lower().replace('amd64', 'x86_64')}"


def run(module: str, *arguments: object) -> str:
    """Run a tool of this environment in the checkout, and return what it prints; its own message is the error."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        sys.exit(f"bundle: {module} ended with code {ended.returncode}")
    return ended.stdout


def make(out: Path, dist: Path, extras: list[str], system: str, python: str) -> None:
    """Write the bundle into a new folder. `dist` has the wheel and the sdist of this version."""
    (wheel,), (sdist,) = dist.glob(f"he_agg-{VERSION}-*.whl"), dist.glob(f"he_agg-{VERSION}.tar.gz")
    wheels, listed, named = out / "wheels", out / "requirements.txt", SYSTEMS[system]
    wheels.mkdir(parents=True)
    shutil.copy(wheel, wheels)
    shutil.copy(sdist, out)
    listed.write_text(pinned(extras, python, named[0]) + f"he-agg=={VERSION} \\\n    --hash=sha256:{_digest(wheel)}\n")
    fit = ["--only-binary", ":all:", "--python-version", python, *(f"--platform={one}" for one in named[1])]
    hashed = ["--require-hashes", "--no-deps", "--find-links", wheels, "--requirement", listed]
    run("pip", "download", "--quiet", "--disable-pip-version-check", *fit, *hashed, "--dest", wheels)
    write_sbom(out / f"he-agg-{VERSION}.cdx.json", wheels, listed, fit)


def pinned(extras: list[str], python: str, system: str) -> str:
    """Return those lines of the lock that a machine needs, for which uv evaluates the markers; pip would for this one.

    Args:
        system: as uv calls it.
    """
    asked = [word for extra in extras for word in ("--extra", extra)]
    where = ["--python-version", python, "--python-platform", system, "--constraint", str(LOCK)]
    form = ["--no-annotate", "--no-header", "--quiet"]
    names = re.findall(r"^([\w.-]+)==", run("uv", "pip", "compile", "pyproject.toml", *asked, *where, *form), re.M)
    entries = {entry.partition("==")[0]: entry for entry in re.split(r"^(?=\w)", LOCK.read_text(), flags=re.M)}
    missing = [name for name in names if name not in entries]
    if missing:
        sys.exit(f"bundle: requirements.lock has no {', '.join(missing)}: choose from the extras that `dev` names")
    return "".join(re.sub(r" ;.*?(?= \\$)", "", entries[name], count=1, flags=re.M) for name in names)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_sbom(path: Path, wheels: Path, listed: Path, fit: list[str]) -> None:
    """Write a CycloneDX document of what the bundle installs, and of which of them needs which."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False, symlinks=sys.platform != "win32")
        (site,) = (found for found in Path(folder).rglob("site-packages"))
        local = ["--no-index", "--find-links", wheels, "--no-deps", "--no-compile", "--require-hashes"]
        quiet = ["--quiet", "--disable-pip-version-check"]
        run("pip", "install", *quiet, *fit, *local, "--target", site, "--requirement", listed)
        # Checked against the schema by tests/test_packages.py, not by each run.
        form = ["--spec-version", "1.6", "--output-reproducible", "--no-validate", "--output-file", path]
        run("cyclonedx_py", "environment", "--pyproject", ROOT / "pyproject.toml", *form, folder)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--extras", default="server", help="comma-separated; '' for a site alone (default: server)")
    parser.add_argument("--system", choices=SYSTEMS, default=this_system())
    parser.add_argument("--python", default=f"{sys.version_info[0]}.{sys.version_info[1]}", help="such as 3.12")
    parser.add_argument("--dist", type=Path, help="wheel and sdist, such as released ones (default: they are built)")
    parser.add_argument("--out", type=Path, help="a folder that is not there yet (default: below dist/)")
    given = parser.parse_args()
    out = given.out or ROOT / "dist" / f"he-agg-{VERSION}-{given.system}-py{given.python}"
    if out.exists():
        sys.exit(f"bundle: {out} exists; move it away first, or give --out")
    extras = [extra for extra in given.extras.split(",") if extra]
    with tempfile.TemporaryDirectory() as built:
        if given.dist is None:
            run("build", "--quiet", "--no-isolation", "--outdir", built)
        try:
            make(out, given.dist or Path(built), extras, given.system, given.python)
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)  # half a bundle looks like a whole one
            raise
    print(out)


if __name__ == "__main__":
    main()
