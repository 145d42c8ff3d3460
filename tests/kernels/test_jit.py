"""The kernels' cache: warm processes compile nothing, and no writable place is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import he_agg
from he_agg.kernels import jit as _jit

USE = """
import json, sys, time
begin = time.perf_counter()
from he_agg.ring.encryptor import Encryptor
from he_agg.ring.params import RingParams
imported = time.perf_counter() - begin
from he_agg.ring import ntt, ntt_lanes, sampling, uniform
from he_agg.kernels import jit as _jit
from he_agg.ring import passes as kernels
from he_agg.kernels import packing_lanes
import numpy as np
dispatchers = [x for m in (kernels, ntt, ntt_lanes, sampling, packing_lanes, uniform) for x in vars(m).values()
               if hasattr(x, "signatures")]
dispatchers.append(packing_lanes.pack_kernel(30))
at_import = sum(len(x.signatures) for x in dispatchers)
begin = time.perf_counter()
with Encryptor(RingParams(1, (1073692673,), (67108859,), 1723, 32767, 9), bytes(32)) as encryptor:
    encryptor.encrypt(0, np.ones(40000, dtype=np.int32))
first = time.perf_counter() - begin
stats = [x.stats for x in dispatchers]
print(json.dumps({
    "at_import": at_import, "imported_s": imported, "first_s": first,
    "hits": sum(sum(s.cache_hits.values()) for s in stats),
    "misses": sum(sum(s.cache_misses.values()) for s in stats),
    "folder": str(_jit.cache_folder()),
}))
"""


def run(**environment):
    """Encrypt in a fresh process with the cache where the environment says."""
    root = str(Path(he_agg.__file__).parents[1])
    env = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {"PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", USE], env=env | environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_a_warm_process_compiles_nothing(tmp_path):
    cold = run(NUMBA_CACHE_DIR=str(tmp_path))
    assert cold["misses"] > 0
    assert Path(cold["folder"]).parent == tmp_path
    warm = run(NUMBA_CACHE_DIR=str(tmp_path))
    assert warm["misses"] == 0
    assert warm["hits"] > 0
    assert warm["at_import"] == 0
    print(f"cold {cold['first_s']:.3f} s, warm {warm['first_s']:.3f} s, import {warm['imported_s']:.3f} s")
    assert warm["first_s"] < cold["first_s"]


def test_without_any_writable_place_every_process_compiles(tmp_path):
    """No cache folder can be made: candidates below a plain file fail whoever runs this, root included."""
    (tmp_path / "file").write_text("")
    nowhere = "import he_agg.kernels.jit as j; from pathlib import Path; "
    nowhere += f"j.candidates = lambda: [Path({str(tmp_path / 'file')!r}) / 'x']\n"
    root = str(Path(he_agg.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": root}
    command = [sys.executable, "-c", nowhere + USE]
    done = json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert done["folder"] == "None"
    assert done["hits"] == 0


def test_the_first_writable_place_wins(tmp_path):
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file", tmp_path / "file" / "below", tmp_path / "good", tmp_path / "other"]
    assert _jit.first_writable(places, "d1") == tmp_path / "good" / "ring-d1"
    assert (tmp_path / "good" / "ring-d1").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "other").exists()
    assert _jit.first_writable(places[:2], "d1") is None
    assert _jit.first_writable(places, None) is None


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_place_is_passed_over(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    places = [tmp_path / "locked", tmp_path / "good"]
    assert _jit.first_writable(places, "d1") == tmp_path / "good" / "ring-d1"


def test_the_digest_follows_every_source(tmp_path):
    assert _jit.source_digest(tmp_path) is None
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("y = 1")
    before = _jit.source_digest(tmp_path)
    (tmp_path / "b.py").write_text("y = 2")
    assert before != _jit.source_digest(tmp_path)


def test_places_without_a_home(monkeypatch):
    monkeypatch.setattr(_jit.config, "CACHE_DIR", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert _jit.candidates() == [Path(_jit.__file__).parent / "__pycache__"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert _jit.candidates()[-1] == Path("/somewhere/he-agg")
    monkeypatch.setattr(_jit.config, "CACHE_DIR", "/chosen")
    assert _jit.candidates()[0] == Path("/chosen")


AT_ONCE = """
import time
from concurrent.futures import ThreadPoolExecutor
from numba.core.caching import UserProvidedCacheLocator as Locator
from he_agg.kernels import jit as _jit
from he_agg.kernels import packing_groups
subpath = Locator.get_suitable_cache_subpath
def slowly(py_file):  # between looking whether there is a folder and using it
    time.sleep(0.001)
    return subpath(py_file)
Locator.get_suitable_cache_subpath = staticmethod(slowly)
candidates, calls = _jit.candidates, []
def late():  # asked again, it would find the setting of those who are further
    calls.append(None)
    time.sleep(0.02 * len(calls))
    return candidates()
_jit.candidates = late
def make(bits):
    return packing_groups._pack_kernel.__wrapped__(bits)
with ThreadPoolExecutor(8) as pool:
    kernels = list(pool.map(make, [33 + i % 20 for i in range(400)]))
print(*{kernel._cache.cache_path for kernel in kernels}, _jit.cache_folder(), sep="|")
"""


def test_kernels_made_in_many_threads_at_once_all_go_to_the_one_folder(tmp_path):
    """Numba takes the folder from a global setting; one thread's reset sent another's cache to the working directory.

    Whoever can write a cache can run code in the process that reads it.
    """
    root = str(Path(he_agg.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": root, "NUMBA_CACHE_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE], env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *paths, folder = done.stdout.strip().split("|")
    assert [Path(path).parent for path in paths] == [Path(folder)]
