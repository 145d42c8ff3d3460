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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from client_sdk.adapters.base import missing_extra
from client_sdk.flower.records import RECORD, SUMS, check_shared, read_record, sum_record
from he_agg.documents.federation import FederationDocument
from he_agg.errors import HeAggError, ProtocolError, Reason
from he_agg.kernels import bitpack
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part
from he_agg.protocol.wire import encode_part, parse_part

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
        federation: the public document of `he-agg epoch new`, or its path, or the public half of the plan.
        min_nodes: how many nodes a round waits for; the plan's `min_sites` if None.
        keep_sums: how many sums are kept for nodes that were away.
        reveal_metrics: whether the metrics that clients reply with are passed on in the clear, number of examples
            included; without, the server sees no number about any single site.
    """

    def __init__(
        self,
        federation: str | Path | PublicPlan,
        *,
        min_nodes: int | None = None,
        keep_sums: int = 5,
        reveal_metrics: bool = False,
    ) -> None:
        if isinstance(federation, PublicPlan):
            self._plan = federation
        else:
            self._plan = FederationDocument.parse(Path(federation).read_bytes()).plan
        check_shared(self._plan)
        self._min_nodes = self._plan.min_sites if min_nodes is None else min_nodes
        self._keep, self._reveal = keep_sums, reveal_metrics
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
        totals = [bitpack.new_sum(place.residues, place.section.modulus_bits) for place in self._plan.places]
        members: list[int] = []
        for reply in replies:
            node = reply.metadata.src_node_id
            if reply.has_error():
                _log.warning("node %d: %s", node, reply.error.reason)
                continue
            if node in members:
                continue
            try:
                parts = self._parts(reply.content, server_round)
            except HeAggError as error:
                _log.warning("node %d is not counted: %s", node, error.message)
                continue
            for total, part, place in zip(totals, parts, self._plan.places, strict=True):
                # Residues were checked when the part was parsed.
                bitpack.fold(total, part.packed, place.section.modulus_bits, place.section.modulus)
            members.append(node)
        if not self._plan.min_sites <= len(members) <= self._plan.max_sites:
            raise ProtocolError(
                Reason.ROUND_FAILED,
                f"round {server_round}: expected {self._plan.min_sites} to {self._plan.max_sites} encrypted updates, "
                f"got {len(members)}",
                "see the nodes' logs; start again when enough nodes are there",
            )
        packed = [
            encode_part(
                Part(place.number, bitpack.pack(total, place.section.modulus_bits).data), place, self._plan.plan_id
            )
            for total, place in zip(totals, self._plan.places, strict=True)
        ]
        self._sums[server_round] = sum_record(len(members), packed)
        self._sums.pop(server_round - self._keep, None)
        for node in members:
            self._seen[node] = server_round - 1
        return None, MetricRecord({"n_sites": len(members)})

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Any]) -> Any:
        """Note who has the newest sum. Metrics are averaged only if they are to be revealed."""
        found: list[Any] = []
        for reply in replies:
            if reply.has_error():
                _log.warning("node %d: %s", reply.metadata.src_node_id, reply.error.reason)
                continue
            self._seen[reply.metadata.src_node_id] = server_round
            found += reply.content.metric_records.values()
        if not self._reveal or not found:
            return None
        names = set.intersection(*(set(metrics) for metrics in found))
        return MetricRecord({name: sum(float(metrics[name]) for metrics in found) / len(found) for name in names})

    def _messages(self, server_round: int, arrays: Any, config: Any, grid: Any, kind: str) -> list[Any]:
        nodes, _ = sample_nodes(grid, self._min_nodes, max(self._min_nodes, len(list(grid.get_node_ids()))))
        settings = ConfigRecord(dict(config) | {"server-round": server_round})
        control = ConfigRecord({"round": server_round, "reveal": self._reveal, "last_sum": max(self._sums, default=0)})
        messages = []
        for node in nodes[: self._plan.max_sites]:
            seen = self._seen.get(node, 0)
            content = {"arrays": arrays if seen == 0 else ArrayRecord(), "config": settings, RECORD: control}
            content |= {f"{SUMS}{n}": record for n, record in self._sums.items() if n > seen}
            messages.append(Message(RecordDict(content), dst_node_id=node, message_type=kind))
        return messages

    def _parts(self, content: Any, server_round: int) -> list[Part]:
        record = read_record(content, RECORD, "reply")
        data = record["parts"]
        if record["round"] != server_round or len(data) != len(self._plan.places):
            raise ProtocolError(
                Reason.BAD_ANSWER,
                f"expected {len(self._plan.places)} parts for round {server_round}, got {len(data)} "
                f"for round {record['round']}",
            )
        return [
            parse_part(part, place, self._plan.plan_id) for part, place in zip(data, self._plan.places, strict=True)
        ]
