""" "The aggregator cannot decrypt" is a property of what it loads."""

import json
import subprocess
import sys

import pytest

FORBIDDEN = (
    "tenseal",
    "keys",
    "client_sdk",
    "httpx",
    "he_agg.codecs.ckks",
    "he_agg.codecs.seal_format",
    "he_agg.sharing.dealer",
    "he_agg.sharing.masks",
    "sklearn",
    "torch",
)

_PROGRAM = """
import importlib, json, pkgutil, sys
for name in sys.argv[1].split(","):
    importlib.import_module(name)
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(modules):
    command = [sys.executable, "-c", _PROGRAM, modules]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(result.stdout))


@pytest.mark.parametrize(
    "modules",
    [
        "service",
        "service.serve.cli",
        "service.operator.federation",
        "service.http.app,service.serve.server,service.operator.operations",
    ],
)
def test_a_fresh_process_loads_no_key_and_no_he_library(modules):
    loaded = loaded_by(modules)
    assert not loaded & set(FORBIDDEN)
    assert not {name for name in loaded if name.split(".")[0] in FORBIDDEN}


def test_operator_commands_do_without_the_web_framework():
    loaded = loaded_by("service.serve.cli,service.operator.federation,service.operator.aggregator")
    assert not loaded & {"fastapi", "starlette", "uvicorn"}
