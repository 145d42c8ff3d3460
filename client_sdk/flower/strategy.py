"""A Flower strategy that adds ciphertexts. The server app holds no key and never sees a model after the first.

::

    app = ServerApp()

    @app.main()
    def main(grid, context):
        strategy = EncryptedFedAvg("stroke.federation.json")
        strategy.start(grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=10)
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from client_sdk.adapters.base import missing_extra
from client_sdk.flower.records import RECORD, SUMS, carried, carrying, read_record
from client_sdk.frameworks.adder import Adder, read_federation, sentence
from client_sdk.frameworks.claim import NO_SUM, RUN_BYTES, digest_of
from he_agg.documents.federation import FederationDocument
from he_agg.errors import HeAggError

try:
    from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
    from flwr.serverapp.strategy import Strategy
    from flwr.serverapp.strategy.strategy_utils import sample_nodes
except ImportError as error:
    raise missing_extra("flwr", "flower") from error

__all__ = ["EncryptedFedAvg"]

_log = logging.getLogger("flwr")


class EncryptedFedAvg(Strategy):  # type: ignore[misc,unused-ignore]
    """Federated averaging over encrypted updates, weighted by encrypted numbers of examples.

    The initial weights go out in the clear, once; they must say nothing about patients. From then on each node gets the
    encrypted sums that it has not had yet. `result.arrays` stays empty: the model is at the nodes.

    Args:
        federation: the public document of `he-agg epoch new`, or its path.
        min_nodes: how many nodes a round waits for; the plan's `min_sites` if None.
        keep_sums: how many sums are kept for nodes that were away.
    """

    def __init__(
        self, federation: str | Path | FederationDocument, *, min_nodes: int | None = None, keep_sums: int = 5
    ) -> None:
        self._federation = read_federation(federation)
        self._plan = self._federation.plan
        self._min_nodes = self._plan.min_sites if min_nodes is None else min_nodes
        self._keep = keep_sums
        self._run, self._digest = secrets.token_hex(RUN_BYTES), NO_SUM
        self._sums: dict[int, Any] = {}
        self._seen: dict[int, int] = {}

    def summary(self) -> None:
        """Log what is configured."""
        _log.info("\t├──> he-agg plan %s, codec %s", self._plan.plan_id[:12], self._plan.codec)
        _log.info("\t└──> %d to %d sites, no key here", self._plan.min_sites, self._plan.max_sites)

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Send everybody the sums that they lack."""
        return self._messages(server_round, arrays, config, grid, MessageType.TRAIN)

    def configure_evaluate(self, server_round: int, arrays: Any, config: Any, grid: Any) -> Iterable[Any]:
        """Bring the last sum to the nodes, after the last round."""
        return self._messages(server_round, arrays, config, grid, MessageType.EVALUATE)

    def aggregate_train(self, server_round: int, replies: Iterable[Any]) -> tuple[Any, Any]:
        """Add residues.

        Raises:
            ProtocolError: fewer replies than the plan's `min_sites`.
        """
        adder = Adder(self._federation, self._run, server_round, self._digest)
        members: list[int] = []
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                _log.warning("node %d: %s", node, reply.error.reason)
                continue
            try:
                adder.add(f"node-{node}", *carried(read_record(reply.content, RECORD, "reply")))
                members.append(node)
            except HeAggError as error:
                _log.warning("node %d is not counted: %s", node, sentence(error))
        total = adder.total()
        self._digest = digest_of(total[0])
        self._sums[server_round] = carrying(total)
        self._sums.pop(server_round - self._keep, None)
        for node in members:
            self._seen[node] = server_round - 1
        return None, MetricRecord({"n_sites": len(members)})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        """Note who has the newest sum, and average the metrics that nodes reveal, if any."""
        found: list[Any] = []
        for reply in replies:
            if reply.has_error():
                _log.warning("node %d: %s", reply.metadata.src_node_id, reply.error.reason)
                continue
            self._seen[reply.metadata.src_node_id] = server_round
            found += reply.content.metric_records.values()
        names = set.intersection(*(set(metrics) for metrics in found)) if found else set()
        if not names:
            return None
        return MetricRecord({name: sum(float(metrics[name]) for metrics in found) / len(found) for name in names})

    def _messages(self, server_round: int, arrays: Any, config: Any, grid: Any, kind: str) -> list[Any]:
        nodes, _ = sample_nodes(grid, self._min_nodes, max(self._min_nodes, len(list(grid.get_node_ids()))))
        settings = ConfigRecord(dict(config) | {"server-round": server_round})
        control = ConfigRecord({"run": self._run, "round": server_round, "last_sum": max(self._sums, default=0)})
        messages = []
        for node in nodes[: self._plan.max_sites]:
            seen = self._seen.get(node, -1)  # who was never heard of has not even the initial weights
            content = {"arrays": arrays if seen < 0 else ArrayRecord(), "config": settings, RECORD: control}
            content |= {f"{SUMS}{n}": record for n, record in self._sums.items() if n > seen}
            messages.append(Message(RecordDict(content), dst_node_id=node, message_type=kind))
        return messages
