"""What all tests share: printed seeds, quick Hypothesis profiles, long files first."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.support.object_store import running_object_store
from tests.support.postgres import running_postgres
from tests.support.seeds import GIVEN, seed_of

# A failure prints its own reproduction line; no deadline, since the first call of a kernel compiles it.
settings.register_profile(
    "default",
    deadline=None,
    print_blob=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=GIVEN,
)
settings.register_profile("soak", deadline=None, print_blob=True, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Files of tests lie in memory where there is room, also those of federations that make their own folder: a thousand of
# them wait for fsync otherwise. What a power cut does is played by the tests themselves, not by a disk.
_MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK):
    room = os.statvfs(_MEMORY)
    if room.f_bavail * room.f_frsize >= 8 * 2**30 and not room.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

_TESTS = Path(__file__).parent
_LONG = (
    "faults/test_kill_loop.py",
    "client_sdk/training/test_loop.py",
    "benchmarks/test_rounds.py",
    "faults/test_fuzz.py",
    "attacks/test_time_and_size.py",
    "kernels/test_bitpack.py",
    "service/store/parts/test_s3.py",
    "client_sdk/analytics/test_federation.py",
    "test_packages.py",
    "examples/test_analytics_examples.py",
    "client_sdk/analytics/test_cox.py",
    "client_sdk/test_acceptance.py",
    "faults/test_lost_writes.py",
    "service/monitor/test_browser.py",
    "service/serve/test_replicas.py",
    "faults/test_simulation.py",
    "service/serve/test_roles.py",
    "client_sdk/test_cli.py",
    "attacks/test_decryption_bounds.py",
    "client_sdk/test_front_door.py",
    "kernels/test_jit.py",
    "test_site.py",
    "documents/test_documents.py",
    "mac/test_agreement.py",
    "service/monitor/test_sign_in.py",
    "mac/test_bound.py",
    "client_sdk/test_end_to_end.py",
    "host/test_siblings.py",
)
"""Files of 20 s and more, longest first: one that starts last leaves all workers but its own without work."""


def pytest_collection_modifyitems(config, items):
    """Let slow loops take their time; with several workers (`make test`), hand out the long files first."""
    place = {_TESTS / file: number for number, file in enumerate(_LONG)}
    if missing := [str(path) for path in place if not path.is_file()]:
        raise pytest.UsageError(f"tests/conftest.py: expected files that exist in _LONG, got {missing}")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.timeout(0))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: place.get(item.path, len(_LONG)))


def pytest_collection_finish():
    """Leave what all modules have imported to itself: no garbage collection of a test goes through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng(request):
    """A generator with a fresh seed, printed when the test fails. HE_AGG_TEST_SEED repeats one."""
    return np.random.default_rng(seed_of(request.node.nodeid))


@pytest.fixture(scope="session")
def postgres():
    """A real PostgreSQL, started when the first test needs it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def object_store():
    """A real S3 server that tests share, each with a prefix of its own."""
    with running_object_store() as server:
        yield server
