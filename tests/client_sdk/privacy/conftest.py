"""Reproducible random bytes, and an aggregator to share."""

from __future__ import annotations

import hashlib

import pytest

from tests.support.server import QUICK, start_server


def stream(seed: int):
    """A source of bytes that depends on the seed alone."""
    state = {"n": 0}

    def source(size: int) -> bytes:
        state["n"] += 1
        return hashlib.shake_256(f"{seed}/{state['n']}".encode()).digest(size)

    return source


@pytest.fixture(scope="session")
def aggregator(tmp_path_factory):
    """An aggregator that tests share."""
    with start_server(tmp_path_factory.mktemp("privacy") / "data", environment=QUICK) as server:
        yield server
