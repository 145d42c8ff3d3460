""" "The aggregator cannot decrypt" is a property of what it loads."""

import json
import subprocess
import sys

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
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    print(json.dumps([name, sorted(sys.modules)]))
"""


def test_a_fresh_process_loads_no_key_and_no_he_library():
    """Modules come one after another: what none may load was not loaded by those before it either.

    Operators' commands come first, since they do without the web framework as well.
    """
    commands = ["service", "service.serve.cli", "service.operator.federation", "service.operator.aggregator"]
    serving = ["service.operator.operations", "service.serve.server", "service.http.app"]
    command = [sys.executable, "-c", _PROGRAM, *commands, *serving]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [name for name, _ in found] == [*commands, *serving]
    for name, modules in found:
        loaded = {*modules, *(module.split(".")[0] for module in modules)}
        assert not loaded & set(FORBIDDEN), name
        assert "he_agg" in loaded or name == "service"
        assert name not in commands or not loaded & {"fastapi", "starlette", "uvicorn"}, name
    assert {"fastapi", "starlette", "uvicorn"} <= loaded
