"""The transcript: everything signed that a federation has left behind, one document a line, for whoever audits it.

First the federation and its plan, then every roster by version, then record by record in the order of the chain: the
manifests of its members, the record itself, and what they said of its sum, by site. It is read piece by piece, so it
takes as much memory as one round's manifests, however long the federation has run.
"""

from __future__ import annotations

from collections.abc import Iterator

from he_agg.documents.transcript import encode_header
from service.store.sql import Store

__all__ = ["transcript"]


def transcript(store: Store, federation: str) -> Iterator[bytes]:
    """Yield the lines of a federation's transcript as of now. Records written meanwhile are left out."""
    with store.read() as tx:
        row, head, versions = tx.federation(federation), tx.chain_head(federation), tx.roster_versions(federation)
    if row is None:
        return
    yield _line(encode_header(row.parsed.plan))
    for version in versions:
        with store.read() as tx:
            document = tx.roster_document(federation, version)
        yield _line(document)
    for index in range(1, head.index + 1):
        with store.read() as tx:
            round_ = tx.record_at(federation, index)
            manifests = [] if round_ is None else tx.manifests(round_.id)
            verdicts = [] if round_ is None else tx.verdict_documents(round_.id)
        for manifest in manifests:
            yield _line(manifest)
        if round_ is not None and round_.record is not None:
            yield _line(round_.record)
        for verdict in verdicts:
            yield _line(verdict)


def _line(document: bytes) -> bytes:
    return document + b"\n"
