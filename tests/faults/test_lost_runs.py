"""Power cuts at a site in a run of another framework: what it must not repeat is noted for good."""

from __future__ import annotations

import random

import pytest

from client_sdk.frameworks.folder import RunFolder
from he_agg.host import files
from tests.faults.disk import LossyDisk
from tests.faults.power import a_folder

RUN = "ab" * 16


@pytest.mark.parametrize("how", ["none", "some"])
def test_what_an_update_was_encrypted_for_is_noted_for_good(monkeypatch, how):
    for seed in range(20):
        with a_folder() as root, monkeypatch.context() as patch:
            home = root / "home"
            home.mkdir()
            disk = LossyDisk(home, patch, (files,))
            folder = RunFolder(home / "keystore", "a", RUN)
            assert folder.first_sent("cd" * 32, "round 1") == "round 1"
            assert folder.first_sum(1, "ef" * 32) == "ef" * 32
            disk.crash(how, random.Random(seed))
            patch.undo()
            folder = RunFolder(home / "keystore", "a", RUN)
            assert folder.first_sent("cd" * 32, "round 2") == "round 1", "it could go into a second sum"
            assert folder.first_sum(1, "12" * 32) == "ef" * 32, "two sums of a round could be opened"
