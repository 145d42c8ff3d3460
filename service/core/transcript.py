"""The transcript: everything signed that a federation has left behind, one document a line, for whoever audits it.

First the federation and its plan, then every roster by version, then record by record in the order of the chain: the
manifests of its members, the record itself, what holders have signed about it, and what members said of its sum. It is
read piece by piece, so it takes as much memory as one round's manifests, however long the federation has run.
"""

from __future__ import annotations

from collections.abc import Iterator

from he_agg.documents.sharing import key_documents
from he_agg.documents.transcript import encode_header
from he_agg.ids import RoundId
from service.domain.events import Phase
from service.store.sql import Store
from service.store.transaction import Transaction

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
            held = [] if round_ is None or round_.phase is not Phase.PUBLISHED else _held(tx, round_.id)
            verdicts = [] if round_ is None else tx.verdict_documents(round_.id)
        for manifest in manifests:
            yield _line(manifest)
        if round_ is not None and round_.record is not None:
            yield _line(round_.record)
        for document in (*held, *verdicts):
            yield _line(document)


def _held(tx: Transaction, round_id: RoundId) -> list[bytes]:
    """Return the sharing keys of a round's list, and what holders have said, in the order that the audit expects."""
    listed = tx.holder_list(round_id)
    if listed is None:
        return []
    return [*key_documents(listed), *tx.echoes(round_id), *tx.answers(round_id), *tx.complaints(round_id)]


def _line(document: bytes) -> bytes:
    return document + b"\n"
