"""A process that is as much like one on Windows as can be had here; run by test_windows.py.

What Windows lacks is gone before a line of ours is loaded, `sys.platform` says win32, and the two libraries that stand
in for it there behave as Microsoft's do: a locked byte belongs to a handle and locking it again fails at once with
EACCES, and a file has an access control list instead of a mode. The rest is real: files, sockets, processors.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import errno
import importlib
import json
import os
import select
import selectors
import shutil
import signal
import ssl
import stat
import struct
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

ME, USERS = "S-1-5-21-1-2-3-1001", "BU"
OTHERS = """
    click.testing cryptography.hazmat.primitives.asymmetric.ed25519 dp_accounting h11 multiprocessing numba pydantic
    pydantic_settings rich.console rich.prompt scipy.stats tenseal zstandard
"""
"""Other people's libraries are loaded first: they are not what is tried, and need what this system has."""

MISSING = {
    os: (
        *("geteuid", "getuid", "fork", "fchmod", "pread", "pwrite", "sched_getaffinity", "confstr"),
        *("O_NOFOLLOW", "O_CLOEXEC", "O_DIRECTORY", "O_NONBLOCK"),
    ),
    select: ("poll", "epoll"),
    selectors: ("PollSelector", "EpollSelector"),
    signal: ("SIGKILL", "SIGCHLD"),
}
STANDARD = (asyncio, concurrent.futures.thread, subprocess, tempfile)


def pretend() -> None:
    """Take away what Windows lacks, and give what it has."""
    import fcntl

    for name in OTHERS.split():
        importlib.import_module(name)

    def locking(descriptor: int, how: int, n_bytes: int) -> None:
        kind = fcntl.F_UNLCK if how == msvcrt.LK_UNLCK else fcntl.F_WRLCK
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        wanted = struct.pack("hhqqi4x", kind, os.SEEK_SET, at, n_bytes, 0)
        try:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
        except OSError as error:
            raise PermissionError(errno.EACCES, "Permission denied") from error

    def sddl(path: str, _parts: int, _revision: int = 1) -> str:
        mode = os.stat(path).st_mode  # noqa: PTH116 - as the other names here
        return f"O:{ME}D:AI(A;ID;FA;;;SY)(A;ID;FA;;;{ME})" + (
            f"(A;ID;0x1200a9;;;{USERS})" if mode & stat.S_IROTH or "shared" in path else ""
        )

    msvcrt = types.SimpleNamespace(LK_NBLCK=2, LK_UNLCK=0, locking=locking)
    security = types.SimpleNamespace(
        OWNER_SECURITY_INFORMATION=1,
        DACL_SECURITY_INFORMATION=4,
        SDDL_REVISION_1=1,
        TokenUser=1,
        GetFileSecurity=lambda path, parts: path,
        ConvertSecurityDescriptorToStringSecurityDescriptor=lambda path, revision, parts: sddl(path, parts),
        OpenProcessToken=lambda process, access: process,
        GetTokenInformation=lambda token, what: (ME, 0),
        ConvertSidToStringSid=lambda sid: sid,
    )
    given = {"msvcrt": msvcrt, "win32security": security}
    given |= {"win32api": types.SimpleNamespace(GetCurrentProcess=lambda: -1)}
    given |= {"win32con": types.SimpleNamespace(TOKEN_QUERY=8)}
    sys.modules.update(given)  # type: ignore[arg-type]
    for name in ("fcntl", "pwd", "grp", "resource", "termios"):
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in MISSING.items():
        for name in names:
            delattr(module, name)
    selectors.DefaultSelector = selectors.SelectSelector  # type: ignore[assignment,misc]
    ssl.enum_certificates = lambda store: []  # type: ignore[attr-defined]
    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    sys.platform = "win32"


def refusal(work) -> str:
    """Do what has to be refused. Returns reason and message."""
    from he_agg.errors import HeAggError

    try:
        work()
    except HeAggError as error:
        return f"{error.reason}: {error.message}"
    return "not refused"


def main(settings: list[Path], place: Path) -> dict[str, object]:
    """Do what a site does; at last a whole round of all of them."""
    for name in ("analytics", "training", "cli.rounds", "cli.join", "adapters", "compression"):
        importlib.import_module(f"client_sdk.{name}")
    from client_sdk import Site
    from client_sdk._disk.spool import SpoolEntry
    from client_sdk.privacy.ledger import Ledger
    from client_sdk.privacy.mechanism import ORDERS
    from he_agg.host.commands import main as he_agg
    from he_agg.host.processes import Process
    from he_agg.ids import RoundId
    from keys import Identity
    from keys.hardening import harden_command

    said: dict[str, object] = {"hardened": harden_command()}
    Identity.create("hospital-x").save(place / "x.identity")
    said["identity"] = Identity.load(place / "x.identity").name
    (place / "x.identity").chmod(0o644)
    said["open to users"] = refusal(lambda: Identity.load(place / "x.identity"))
    (place / "link").symlink_to("x.identity")
    said["link"] = refusal(lambda: Identity.load(place / "link"))
    (place / "shared").mkdir()
    said["shared folder"] = refusal(lambda: Identity.create("y").save(place / "shared/y.identity"))
    said["left in it"] = sorted(path.name for path in (place / "shared").iterdir())

    entry = SpoolEntry(place / "round", RoundId("test", 1, 1))
    with entry.locked():
        said["locked twice"] = refusal(lambda: entry.locked().__enter__())
    with entry.locked():
        said["locked again"] = sorted(path.name for path in place.glob("*.lock"))
    said["locks left"] = sorted(path.name for path in place.glob("*.lock"))

    def charge(number: int) -> bool:
        ledger = Ledger(place / "ledger", epsilon=8.0, delta=1e-6)  # a descriptor of its own each time
        return ledger.charge(f"round {number}", f"{number:064x}", np.full(len(ORDERS), 1e-6))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        said["charged"] = sum(pool.map(charge, range(12)))
    said["charges"] = len(Ledger(place / "ledger", epsilon=8.0, delta=1e-6).charges)

    said["process"] = refusal(lambda: Process(["true"], place / "log").start())
    os.chdir(place)
    for words in (["site", "init", "z", "--no-passphrase"], ["serve"]):
        try:
            he_agg(words)
        except SystemExit as end:
            said[f"he-agg {words[0]}"] = end.code

    def work(path: Path) -> list[float]:
        with Site.open(path, progress=False) as site:
            for round in site.rounds():
                update = {"w": np.linspace(-1.0, 1.0, 1000) * (1 + settings.index(path))}
                mean = round.aggregate(update, weight=10)
                return [mean.n_sites, *map(float, mean.tensors["w"][[0, -1]])]
        return []

    with concurrent.futures.ThreadPoolExecutor(len(settings)) as pool:
        said["means"] = list(pool.map(work, settings))
    return said


if __name__ == "__main__":
    pretend()
    print(json.dumps(main([Path(path) for path in sys.argv[2:]], Path(sys.argv[1]))))
