"""What the fuzzers share: changed bytes, and all that an aggregator keeps, to see that they have changed nothing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.support.simulated import Inside, snapshot

MANY = pytest.mark.parametrize(
    "times", [pytest.param(1, id="some"), pytest.param(20, id="many", marks=pytest.mark.slow)]
)
"""How often a fuzzer asks what it asks in `make test`."""

LIVING = ("leases",)
"""Tables that background work changes by itself."""


def kept(inside: Inside):
    """All that an aggregator keeps."""
    found = snapshot(inside.settings.data_dir)
    return {"files": found["files"], "tables": {k: v for k, v in found["tables"].items() if k not in LIVING}}


def others(found, upload: str):
    """All of that but what belongs to an upload."""
    files = {path: digest for path, digest in found["files"].items() if upload not in path}
    return files, {name: [row for row in rows if upload not in row] for name, rows in found["tables"].items()}


def bounded(examples: int):
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def mutations(data: bytes) -> st.SearchStrategy[bytes]:
    """Bytes changed, cut out, put in, repeated, or taken from elsewhere."""

    @st.composite
    def changed(draw) -> bytes:  # without arguments: what it is made of is too long to be shown
        out = bytearray(data)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, max(0, len(out) - 1)) | st.integers(0, min(len(out), 120)))
            size = draw(st.sampled_from([0, 1, 1, 2, 8, 64, len(out)]))
            match draw(st.sampled_from(["flip", "set", "cut", "insert", "repeat", "end"])):
                case "flip" if out:
                    out[min(at, len(out) - 1)] ^= 1 << draw(st.integers(0, 7))
                case "set":
                    out[at : at + size] = draw(st.binary(min_size=min(size, 64), max_size=min(size, 64)))
                case "cut":
                    del out[at : at + size]
                case "insert":
                    out[at:at] = draw(
                        st.sampled_from([b"\0", b"}", b'"', b"\xff\xfe", b'{"a":1}', b"1e999", b"-", b"[" * 2000])
                    )
                case "repeat":
                    out[at:at] = out[at : at + size]
                case "end":
                    del out[at:]
        return bytes(out)

    return changed()
