"""A user's own keys.py or service.py: what hides a package of ours is named, and what hides none does no harm."""

from __future__ import annotations

import subprocess
import sys

import pytest

from he_agg.siblings import OURS, hidden_by


def python(*arguments, cwd):
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_ours_are_found():
    assert [hidden_by(name) for name in OURS] == [None] * 4


@pytest.mark.parametrize("name", ["keys.py", "keys/__init__.py"])
def test_a_keys_of_the_users_is_named(tmp_path, name):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("SECRET = 1\n")
    (tmp_path / "mine.py").write_text("import client_sdk\n")
    done = python("mine.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {file} is imported in the place of he-agg's package 'keys': rename it, or run your program "
        "from a directory without it"
    )
    done = python("-m", "he_agg", "site", "init", "hospital-a", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith(f"he-agg: error: {file} is imported in the place of he-agg's package 'keys'")
    assert "Traceback" not in done.stderr


def test_a_service_of_the_users_harms_no_site(tmp_path):
    (tmp_path / "service.py").write_text("raise SystemExit('this is mine')\n")
    (tmp_path / "mine.py").write_text("import client_sdk, client_sdk.training, client_sdk.local\nprint('fine')\n")
    done = python("mine.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "fine\n")


def test_a_service_of_the_users_is_named_to_who_serves(tmp_path):
    (tmp_path / "service.py").write_text("MINE = 1\n")
    done = python("-m", "he_agg", "serve", "--help", cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith(f"he-agg: error: {tmp_path / 'service.py'} is imported in the place of")


def test_a_local_federation_starts_beside_them(tmp_path):
    """Its aggregator is a process of its own that does not look into the working directory."""
    (tmp_path / "service.py").write_text("raise SystemExit('this is mine')\n")
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from client_sdk.local import local_federation, plan_for\n"
        "if __name__ == '__main__':\n"
        "    update = {'w': np.ones(3)}\n"
        "    with local_federation(plan_for(update, 3), 3) as federation:\n"
        "        means = federation.everywhere(lambda site, i: next(site.rounds()).aggregate(update, weight=1))\n"
        "    print(len(means))\n"
    )
    done = python("mine.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
