"""What a part costs in a directory and in an object store: processor seconds of this process for each GB.

python -m benchmarks.parts --parts s3://bucket/prefix     with AWS_ENDPOINT_URL and the other AWS_* variables

By turns, so that both see the same machine. What the object store's own processes take is not in it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from he_agg.ids import RoundId
from service.settings import load_settings
from service.store.parts.base import PartKey, PartStore
from service.store.parts.directory import DirectoryParts
from service.store.parts.opening import open_parts

_PART_BYTES = 4 * 2**20
_PARTS = 32
_TURNS = 5
_GB = 1e9


def _spent(act: Callable[[], object]) -> tuple[float, float]:
    """Return the processor seconds and the seconds of the clock that something took."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    act()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.perf_counter() - began


async def _streamed(store: PartStore, keys: list[PartKey]) -> None:
    for key in keys:
        async for _ in store.stream(key, _PART_BYTES):
            pass


def _turn(store: PartStore, round_id: RoundId) -> dict[str, tuple[float, float]]:
    data = os.urandom(_PART_BYTES)
    keys = [PartKey(round_id, "ab" * 32, number) for number in range(_PARTS)]
    acts: dict[str, Callable[[], object]] = {
        "put": lambda: [store.put_all([(key, data)]) for key in keys],
        "put again": lambda: [store.put_all([(key, data)]) for key in keys],
        "size": lambda: [store.size(key) for key in keys],
        "read": lambda: [store.read(key) for key in keys],
        "stream": lambda: asyncio.run(_streamed(store, keys)),
        "purge": lambda: store.purge_round(round_id),
    }
    return {name: _spent(act) for name, act in acts.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", required=True, help="s3://bucket/prefix")
    place = parser.parse_args().parts
    with tempfile.TemporaryDirectory() as directory:
        stores = {"directory": DirectoryParts(Path(directory)), place: open_parts(load_settings(parts=place))}
        turns: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in stores}
        for number in range(_TURNS):
            for name, store in stores.items():
                turns[name].append(_turn(store, RoundId("measured", number + 1, 1)))
        begin = time.process_time()
        hashlib.sha256(bytes(_PART_BYTES * _PARTS)).digest()
        print(f"SHA-256 alone: {(time.process_time() - begin) / (_PART_BYTES * _PARTS / _GB):.2f} s/GB")
    size = _PART_BYTES * _PARTS / _GB
    print(f"{_PARTS} parts of {_PART_BYTES} bytes, median of {_TURNS} turns: processor s/GB (clock s/GB)")
    for act in turns["directory"][0]:
        shown = []
        for name, made in turns.items():
            processor, clock = (statistics.median(turn[act][kind] for turn in made) / size for kind in (0, 1))
            shown.append(f"{name.partition(':')[0]} {processor:6.2f} ({clock:6.2f})")
        print(f"{act:10}", "   ".join(shown))


if __name__ == "__main__":
    main()
