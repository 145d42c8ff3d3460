"""One decorator for every compiled function, with a cache that is never stale and never required.

Numba's own cache asks only whether the file of the *calling* function changed; a helper inlined from another
file can go stale under it, and a directory that cannot be written makes the decorator itself fail. Here the
cache lives in a folder named after a digest of all sources of this package, in the first writable place of

1. `NUMBA_CACHE_DIR`, if the user set it,
2. `__pycache__` beside this file,
3. the user's cache directory,

and in no place at all if there is none: then every process compiles for itself. A shared place such as /tmp
is never used, because whoever can write the cache can run code in the process that reads it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numba.core.config as numba_config
import numpy as np
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=np.generic)

config: Any = numba_config  # its attributes are made at run time

_setting = threading.Lock()


def source_digest(*folders: Path) -> str | None:
    """Return a digest of all Python sources of some folders, or None when they cannot be read."""
    digest = hashlib.sha256(f"{numba.__version__}|{sys.version_info[:2]}".encode())
    try:
        files = sorted(file for folder in folders for file in folder.glob("*.py"))
        for file in files:
            data = file.read_bytes()
            digest.update(f"|{file.name}|{len(data)}|".encode() + data)
    except OSError:
        return None
    return digest.hexdigest()[:16] if files else None


def candidates() -> list[Path]:
    """Return the places to try for the cache, best first."""
    places = [Path(config.CACHE_DIR)] if config.CACHE_DIR else []
    places.append(Path(__file__).parent / "__pycache__")
    user = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    if user:
        places.append(Path(user) / "he-agg")
    else:
        try:
            places.append(Path.home() / ".cache" / "he-agg")
        except RuntimeError:  # a user without a home directory
            return places
    return places


def first_writable(places: list[Path], digest: str | None) -> Path | None:
    """Return the cache folder in the first place that can be written, made if need be."""
    if digest is None:
        return None
    for place in places:
        folder = place / f"ring-{digest}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    return None


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Return the folder that this process caches in, decided once."""
    here = Path(__file__).parent
    return first_writable(candidates(), source_digest(here, here.parent / "ring"))


def fused_kernel(function: F) -> F:
    """Compile as `kernel` does, but let a product and the sum after it be one instruction, where the machine has it.

    It rounds once instead of twice. So this is for functions of integers in float64 whose products are exact wherever
    something is added to them: their results are the same on every machine. Others' last bits would not be.
    """
    return _compiled(function, fastmath={"contract"})


def kernel(function: F) -> F:
    """Compile a function at its first call, without the GIL, cached between processes where possible.

    No signature is given: importing must stay cheap, so nothing is compiled or loaded before the first call.
    Callers therefore pass arrays and NumPy scalars of exactly the documented types, or a second version is
    compiled.
    """
    return _compiled(function)


def _compiled(function: F, **options: Any) -> F:
    # One at a time: kernels for a width are made when they are first wanted, which may be in several threads at once,
    # and one that resets the setting under another sends that one's cache into the working directory. The folder is
    # decided by the same setting, and so by one thread too.
    with _setting:
        folder = cache_folder()
        if folder is None:
            return cast("F", numba.njit(nogil=True, **options)(function))
        saved = config.CACHE_DIR
        config.CACHE_DIR = str(folder)  # read by Numba inside the next call only
        try:
            return cast("F", numba.njit(nogil=True, cache=True, **options)(function))
        except RuntimeError:  # Numba found no place after all
            return cast("F", numba.njit(nogil=True, **options)(function))
        finally:
            config.CACHE_DIR = saved


def frozen(array: NDArray[S]) -> NDArray[S]:
    """Return a read-only view: Numba compiles read-only arrays apart, so inputs are always passed as such."""
    view = array.view()
    view.setflags(write=False)
    return view
