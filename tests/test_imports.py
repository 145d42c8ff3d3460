"""Who imports whom: "the aggregator cannot decrypt" is a property of the package graph."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("he_agg", "keys", "service", "client_sdk", "examples")
MAY_IMPORT = {
    "he_agg": {"he_agg"},
    "keys": {"keys", "he_agg"},
    "service": {"service", "he_agg"},
    "client_sdk": {"client_sdk", "keys", "he_agg"},
    "examples": {"examples", "client_sdk", "keys", "he_agg"},
}
ONLY_IN = {
    "tenseal": ("he_agg/codecs/ckks_vectors.py",),
    "llvmlite": ("he_agg/kernels/",),
    "h11": ("client_sdk/_net/http.py", "service/serve/connections.py"),
    "fastapi": ("service/",),
    "starlette": ("service/",),
    "sqlalchemy": ("service/",),
    "cryptography": ("keys/", "he_agg/ring/keystream.py", "he_agg/signing.py", "service/serve/self_signed.py"),
    "sksurv": ("examples/",),
    "sklearn": ("examples/", "client_sdk/adapters/sklearn.py"),
    "torch": (
        "client_sdk/adapters/torch.py",
        "client_sdk/adapters/peft.py",
        "client_sdk/training/proximal.py",
        "examples/",
    ),
    "flwr": ("client_sdk/flower/",),
    "nvflare": ("client_sdk/nvflare/",),
    "matplotlib": ("examples/",),
    "dp_accounting": ("client_sdk/privacy/accountant.py",),
    "opacus": ("client_sdk/privacy/training.py",),
    "scipy": (),
}


@dataclass(frozen=True)
class Source:
    """What the tests here ask of one file."""

    path: str
    imports: list[ast.Import | ast.ImportFrom]
    at_once: list[ast.Import | ast.ImportFrom]
    """Those that run when the module is imported."""
    asserts: list[int]
    classes: list[str]


@cache
def sources(package):
    """Read every file of a package, once for all tests: to parse and walk them takes seconds."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        nodes = list(ast.walk(tree))
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        found.append(
            Source(
                path.relative_to(ROOT).as_posix(),
                imports,
                [node for node in imports if node in tree.body],
                [node.lineno for node in nodes if isinstance(node, ast.Assert)],
                [node.name for node in nodes if isinstance(node, ast.ClassDef)],
            )
        )
    return found


@cache
def imported_names(packages=PACKAGES):
    """Every import: in which file, from which module, which names."""
    found = []
    for source in (source for package in packages for source in sources(package)):
        for node in source.imports:
            if isinstance(node, ast.Import):
                found += [(source.path, alias.name, []) for alias in node.names]
            elif node.level == 0:
                found.append((source.path, node.module or "", [alias.name for alias in node.names]))
    return found


def imports():
    for path, module, _ in imported_names():
        yield path, path.split("/")[0], module.split(".")[0]


def test_packages_import_only_downwards():
    found = list(imports())
    assert len(found) > 100, "the walk found next to nothing: it is looking in the wrong place"
    wrong = [(path, name) for path, package, name in found if name in PACKAGES and name not in MAY_IMPORT[package]]
    assert wrong == []


def test_toolkits_use_the_public_sdk_through_the_one_seam():
    toolkits = ("adapters", "analytics", "compression", "flower", "frameworks", "nvflare", "privacy", "training")
    wrong = []
    for path, module, names in imported_names():
        if path.split("/")[:2] in (["client_sdk", toolkit] for toolkit in toolkits) and module.startswith("client_sdk"):
            private = [name for name in (*module.split("."), *names) if name.startswith("_")]
            if private or module in ("client_sdk", "client_sdk.site", "client_sdk.async_site"):
                wrong.append((path, module, names))
    assert wrong == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_stays_in_its_room(library):
    wrong = [path for path, _, name in imports() if name == library and not path.startswith(ONLY_IN[library])]
    assert wrong == []


def rooms_imported_at_once(package):
    """Which room of a package imports which, by what runs when a module is imported."""
    found = {}
    for source in sources(package):
        room = source.path.removesuffix(".py").split("/")[1]
        for node in source.at_once:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in names:
                if name.startswith(f"{package}."):
                    found.setdefault(room, set()).add(name.split(".")[1])
                elif name == package:
                    found.setdefault(room, set()).update(alias.name for alias in node.names)
    return {room: below - {room} for room, below in found.items()}


def test_rooms_of_the_core_have_no_circles():
    rooms = rooms_imported_at_once("he_agg")
    assert {"canonical", "errors", "kernels", "ring", "plan"} <= rooms["codecs"] | rooms["plan"]
    order = list(graphlib.TopologicalSorter(rooms).static_order())  # raises CycleError, which names the circle
    assert order.index("kernels") < order.index("plan") < order.index("protocol") < order.index("documents")
    assert order.index("plan") < order.index("codecs")


@pytest.mark.parametrize(
    ("package", "below"),
    [
        ("keys", ["identity", "rosters", "cli"]),
        ("service", ["domain", "store", "core", "work", "aggregator", "http", "serve"]),
        ("client_sdk", ["_effects", "_disk", "_net", "_protocol", "_base", "site"]),
    ],
)
def test_rooms_of_the_other_packages_have_no_circles(package, below):
    rooms = rooms_imported_at_once(package)
    graphlib.TopologicalSorter(rooms).prepare()  # raises CycleError, which names the circle
    for number, room in enumerate(below):
        assert not rooms[room] & set(below[number:]), f"{room} is below them"


def test_the_core_exports_its_names_and_loads_them_when_asked_for():
    code = (
        "import sys, he_agg; first = {'numpy', 'numba', 'tenseal'} & set(sys.modules)\n"
        "missing = [name for name in he_agg.__all__ if getattr(he_agg, name).__name__ != name]\n"
        "from he_agg import Layout, Mean, Plan, WireError\n"
        "print(first, missing, {'tenseal', 'keys'} & set(sys.modules), hasattr(he_agg, 'nothing'))"
    )
    assert python(code) == "set() [] set() False\n"


def test_numba_stays_in_kernel_modules():
    rooms = ("he_agg/kernels/", "he_agg/ring/")
    wrong = [path for path, _, name in imports() if name == "numba" and not path.startswith(rooms)]
    assert wrong == []


def python(code):
    """Run a program in a process of its own; what it has printed."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return run.stdout


def loaded_by(modules):
    """Import modules one after another in one fresh process; what has been loaded by each of them, and before it.

    What none of them may load has not been loaded by those before it either, so each is seen as if it were alone.
    """
    code = (
        "import importlib, json, sys\n"
        f"for module in {list(modules)}:\n"
        "    importlib.import_module(module)\n"
        "    print(json.dumps([module, sorted({name.split('.')[0] for name in sys.modules})]))"
    )
    return {module: set(loaded) for module, loaded in map(json.loads, python(code).splitlines())}


def test_serve_command_loads_neither_an_he_library_nor_keys():
    """Nor do the modules behind it: tests/service/test_imports.py."""
    code = (
        "import sys, contextlib, he_agg.host.commands as c\n"
        "with contextlib.suppress(SystemExit): c.main(['serve', '--help'])\n"
        "print(*sorted({n.split('.')[0] for n in sys.modules}))"
    )
    shown, loaded = python(code).rsplit("\n", 2)[:2]
    assert "--port" in shown
    assert "service" in loaded.split()
    assert set(loaded.split()) & {"tenseal", "keys", "client_sdk"} == set()


def test_a_site_loads_no_framework_that_it_was_not_asked_for():
    modules = (
        "client_sdk",
        "client_sdk.adapters",
        "client_sdk.analytics",
        "client_sdk.compression",
        "client_sdk.flower",
        "client_sdk.frameworks.site",
        "client_sdk.nvflare",
        "client_sdk.privacy",
        "client_sdk.training",
    )
    frameworks = {"torch", "sklearn", "jax", "tensorflow", "flwr", "nvflare", "sksurv", "pandas", "matplotlib"}
    found = loaded_by(modules)
    assert found.keys() == set(modules)
    for module, loaded in found.items():
        assert "client_sdk" in loaded
        assert loaded & (frameworks | {"opacus", "dp_accounting"}) == set(), module


def test_a_missing_extra_says_which_command_installs_it():
    """One package is missing at a time."""
    needed = [
        ("torch", "client_sdk.adapters.torch", "torch"),
        ("sklearn", "client_sdk.adapters.sklearn", "sklearn"),
        ("flwr", "client_sdk.flower.mod", "flower"),
        ("flwr", "client_sdk.flower.strategy", "flower"),
        ("nvflare", "client_sdk.nvflare.client", "nvflare"),
        ("nvflare", "client_sdk.nvflare.server", "nvflare"),
    ]
    code = (
        "import importlib, sys\n"
        "from he_agg.errors import ConfigError\n"
        f"for package, module, _ in {needed}:\n"
        "    assert package not in sys.modules\n"
        "    sys.modules[package] = None\n"
        "    try: importlib.import_module(module)\n"
        "    except ConfigError as error: print(module, error.hint)\n"
        "    del sys.modules[package]"
    )
    told = [f"{module} pip install 'he-agg[{extra}]'" for _, module, extra in needed]
    assert python(code).splitlines() == told


def test_core_asserts_nothing_about_input():
    found = [source for package in PACKAGES for source in sources(package)]
    assert [f"{source.path}:{line}" for source in found for line in source.asserts] == []


def test_what_tests_share_is_in_modules_for_it():
    """Fixtures come from conftests above a test; an import of one, or of another test, would collect them twice."""
    wrong = [
        (path, module, names)
        for path, module, names in imported_names(("tests", "benchmarks", "examples"))
        for name in (module, *(f"{module}.{name}" for name in names))
        if (name.startswith("tests.") and name.split(".")[-1].startswith(("conftest", "test_")))
        or (module.startswith("tests") and not path.startswith("tests/"))
    ]
    assert wrong == []


def test_there_is_one_harness_of_each_name():
    """Seven classes were named World once."""
    worlds = [source.path for source in sources("tests") for name in source.classes if name == "World"]
    assert worlds == ["tests/support/flows.py"]


@pytest.mark.parametrize("library", ONLY_IN)
def test_rooms_of_libraries_exist(library):
    assert [room for room in ONLY_IN[library] if not (ROOT / room).exists()] == []
