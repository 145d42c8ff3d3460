"""What the time of a process is spent on, and the names whose work is each of it.

A name is `module:function`, `module:Class.method`, or `module:Class.*` for all methods that the class itself has. Time
within a name that calls another one is that of the other. A test says which names are none any more.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.accounting.clocks import CLOCKS, timed

__all__ = ["ACTIVITIES", "BASES", "install", "missing"]

_DOCUMENTS = (
    "he_agg.documents.signed:Signed.parse",
    "he_agg.documents.signed:Signed.from_json",
    "he_agg.documents.signed:Signed.encode",
    "he_agg.canonical:encode",
    "he_agg.canonical:parse",
)
_SIGNATURES = ("he_agg.signing:verify", "he_agg.signing:SigningKey.sign")

ACTIVITIES: dict[str, dict[str, tuple[str, ...]]] = {
    "aggregator": {
        "sockets": (
            "asyncio.selector_events:_SelectorSocketTransport._read_ready",
            "asyncio.selector_events:_SelectorSocketTransport._write_ready",
            "asyncio.selector_events:_SelectorSocketTransport.write",
        ),
        "HTTP protocol": (
            "service.serve.connections:_Connection.data_received",
            "uvicorn.protocols.http.h11_impl:RequestResponseCycle.send",
            "uvicorn.protocols.http.h11_impl:RequestResponseCycle.receive",
            "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.send",
            "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.receive",
        ),
        "ASGI, FastAPI, routes": (
            "uvicorn.protocols.http.h11_impl:RequestResponseCycle.run_asgi",
            "uvicorn.protocols.http.httptools_impl:RequestResponseCycle.run_asgi",
        ),
        "bodies put together": ("service.http.bodies:BodyReader.*",),
        "TLS": ("ssl:SSLObject.read", "ssl:SSLObject.write", "ssl:SSLObject.do_handshake"),
        "signatures": _SIGNATURES,
        "documents": _DOCUMENTS,
        "SQL": (
            "service.store.sql:Store.read",
            "service.store.sql:Store.write",
            "service.store.queries:Queries.*",
        ),
        "check of parts": ("he_agg.protocol.wire:parse_part",),
        "files": (
            "service.store.parts.directory:DirectoryParts.*",
            "service.store.parts.files:read_piece",
            "service.store.parts.base:PartStore.is_whole",
        ),
        "fold": ("service.work.folding:fold_part",),
        "log": ("service.logs:log",),
        "work of requests and of the worker": ("anyio.to_thread:run_sync",),
    },
    "site": {
        "HTTP and sockets": (
            "client_sdk._net.transport:Transport._send",
            "client_sdk._net.lines:TcpLine.*",
        ),
        "TLS": ("client_sdk._net.lines:TlsLine.*",),
        "signatures": _SIGNATURES,
        "documents": _DOCUMENTS,
        "quantize": ("he_agg.plan.fixedpoint:Quantizing.*",),
        "encrypt": (
            "he_agg.ring.encryptor:Encryptor.encrypt",
            "he_agg.codecs.ckks_vectors:CkksVectors.*",
            "he_agg.codecs.hybrid:HybridCodec._encrypt",
        ),
        "tags": (
            "he_agg.mac.coefficients:PartTags.*",
            "he_agg.mac.coefficients:SectionMac.*",
            "he_agg.mac.round_mac:RoundMac.tags",
            "he_agg.mac.sum_check:SumCheck.holds",
        ),
        "files": (
            "client_sdk._disk.spool:SpoolEntry.*",
            "client_sdk._disk.sum_parts:SumParts.*",
            "client_sdk._disk.files:read_file",
            "he_agg.host.files:create",
            "he_agg.host.files:create_once",
            "he_agg.host.files:replace",
            "he_agg.host.files:sync_directory",
            "client_sdk._disk.lines:Lines.*",
        ),
        "download taken apart": ("client_sdk._protocol.download:_Arriving.*",),
        "decrypt": ("he_agg.ring.opener:Opener.open", "he_agg.codecs.hybrid_opening:HybridOpening.*"),
        "recognise the update": ("keys.recognition:recognise",),
        "means": ("he_agg.plan.fixedpoint:dequantize",),
        "waiting for the start": ("benchmarks.rounds.site:_until",),
    },
}
"""By the kind of process. SHA-256 and the garbage collector are activities of every process, beside these."""

BASES = {
    "aggregator": {
        "main thread": "event loop",
        "threads of requests": "hops to threads",
        "ahead": "threads of the fold",
        "fold": "threads of the fold",
    },
    "site": {
        "main thread": "the rest: flows, the site's own code",
        "he-agg": "threads of the codec",
        "he-agg-encrypt": "threads of the codec",
        "he-agg-spool": "threads of the spool",
    },
}
"""What it is that a thread does while it has entered nothing."""

_OURS = ("he_agg", "keys", "service", "client_sdk", "anyio", "starlette", "benchmarks")


def install(kind: str) -> None:
    """Have the names of a kind of process charged. Import whatever calls them before."""
    CLOCKS.install()
    for activity, names in ACTIVITIES[kind].items():
        for name in names:
            for holder, attribute in _found(name):
                _wrap(activity, holder, attribute)
    _count_hashing()


def missing(kind: str) -> list[str]:
    """Return the names that are none."""
    return [name for names in ACTIVITIES[kind].values() for name in names if not list(_found(name))]


def _found(name: str) -> Iterator[tuple[Any, str]]:
    """Return who has what a name names: a module or a class, and the attribute."""
    where, _, what = name.partition(":")
    try:
        holder: Any = importlib.import_module(where)
        *path, last = what.split(".")
        for each in path:
            holder = getattr(holder, each)
    except (ImportError, AttributeError):
        return
    if last != "*":
        if hasattr(holder, last):
            yield holder, last
        return
    for attribute, value in list(vars(holder).items()):
        if inspect.isfunction(value) and not attribute.startswith("__"):
            yield holder, attribute


def _wrap(activity: str, holder: Any, attribute: str) -> None:
    if inspect.isclass(holder):
        found = next(vars(each)[attribute] for each in holder.__mro__ if attribute in vars(each))
        setattr(holder, attribute, timed(activity, found))
        return
    original = getattr(holder, attribute)
    wrapped = _charging_work(original) if original.__name__ == "run_sync" else timed(activity, original)
    # Whoever imported it by name has it, too.
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in _OURS:
            for key, value in list(vars(module).items()):
                if value is original:
                    setattr(module, key, wrapped)


def _charging_work(run_sync: Any) -> Any:
    """Charge what is run in a thread, where it is run."""

    async def run(function: Any, *args: Any, **named: Any) -> Any:
        return await run_sync(timed("work of requests and of the worker", _called(function)), *args, **named)

    return run


def _called(function: Any) -> Any:
    return lambda *args: function(*args)


def _count_hashing() -> None:
    original = hashlib.sha256

    class Sha256:
        """A digest that charges what it hashes."""

        def __init__(self, data: Any = b"", *, of: Any = None) -> None:
            self._inner = original() if of is None else of
            self.digest, self.hexdigest = self._inner.digest, self._inner.hexdigest
            self.digest_size, self.block_size, self.name = 32, 64, "sha256"
            if len(data):
                self.update(data)

        def update(self, data: Any) -> None:
            CLOCKS.enter("SHA-256")
            try:
                self._inner.update(data)
            finally:
                CLOCKS.leave()
            CLOCKS.bytes["SHA-256"] += memoryview(data).nbytes

        def copy(self) -> Sha256:
            return Sha256(of=self._inner.copy())

    hashlib.sha256 = Sha256  # type: ignore[assignment,misc]
