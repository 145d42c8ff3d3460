"""What a process that holds keys does about its memory, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from keys.hardening import OPT_OUT

SHOW = """
import ctypes, resource
print(resource.getrlimit(resource.RLIMIT_CORE)[0], ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
"""Prints the soft limit of core files, and PR_GET_DUMPABLE."""

BEFORE = (
    "import resource; resource.setrlimit(resource.RLIMIT_CORE, (4096, resource.getrlimit(resource.RLIMIT_CORE)[1]))"
)


def state_after(call, **environment):
    code = f"{BEFORE}\nfrom keys.hardening import forbid_core_dumps, harden_command\nprint({call})\n{SHOW}"
    environment = {name: value for name, value in os.environ.items() if name != OPT_OUT} | environment
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return run.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl")
@pytest.mark.parametrize(
    ("call", "environment", "expected"),
    [
        ("None", {}, ["None", "4096", "1"]),
        ("forbid_core_dumps()", {}, ["True", "0", "1"]),
        ("harden_command()", {}, ["True", "0", "0"]),
        ("forbid_core_dumps()", {OPT_OUT: "1"}, ["False", "4096", "1"]),
        ("harden_command()", {OPT_OUT: "1"}, ["False", "4096", "1"]),
        ("harden_command()", {OPT_OUT: "0"}, ["True", "0", "0"]),
    ],
)
def test_core_dumps_and_debuggers(call, environment, expected):
    assert state_after(call, **environment) == expected
