"""A Flower client mod that encrypts updates and decrypts sums. The client's own code stays as it is.

::

    app = ClientApp(mods=[EncryptedUpdates("stroke.keystore")])

    @app.train()
    def train(msg, context):              # as without: msg.content["arrays"] is the global model in the clear,
        ...                               # and the reply has "arrays" and "metrics" with "num-examples"
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from client_sdk.adapters.base import missing_extra
from client_sdk.flower.records import RECORD, SUMS, carried, carrying, read_record
from client_sdk.frameworks.site import Keystore, RunSite
from he_agg.errors import InputError, Reason
from he_agg.plan.fixedpoint import OnOverflow

try:
    from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
except ImportError as error:
    raise missing_extra("flwr", "flower") from error

__all__ = ["EncryptedUpdates"]


class EncryptedUpdates:
    """The mod. Needs the plan of `training_plan`, made from the model's arrays.

    Arrays that the plan does not have (integer buffers, layers excluded by `training_plan`'s adapter) stay at the node.
    The global model is kept beside the keystore. A node that is new, or lost its state, gets the initial weights and
    all sums that the server still keeps; if that is not enough, it says so and is not counted.

    Args:
        on_overflow: what entries beyond the clip bound get: an "error", or "clip".
        may_repeat: whether an update that may be in a sum already is encrypted for another one.
        reveal_metrics: whether the metrics that the app replies with go to the server in the clear, number of examples
            included; without, the server sees no number about this site.
    """

    def __init__(
        self,
        keystore: str | Path,
        passphrase: str | None = None,
        *,
        on_overflow: OnOverflow = "error",
        may_repeat: bool = False,
        reveal_metrics: bool = False,
    ) -> None:
        self._keystore = Keystore(Path(keystore), passphrase)
        self._on_overflow, self._may_repeat, self._reveal = on_overflow, may_repeat, reveal_metrics

    def __call__(self, message: Any, context: Any, call_next: Callable[[Any, Any], Any]) -> Any:
        """Bring the global model up to date, let the client work, and encrypt what it has learned."""
        if message.metadata.message_type not in (MessageType.TRAIN, MessageType.EVALUATE):
            return call_next(message, context)
        control = read_record(message.content, RECORD, "message")
        number, last = int(control["round"]), int(control["last_sum"])
        site = RunSite(self._keystore, f"node-{context.node_id}", str(control["run"]))
        if initial := message.content.array_records.get("arrays"):
            site.begin(_arrays(initial))
        records = message.content.config_records
        sums = {n: carried(records[f"{SUMS}{n}"]) for n in range(site.done + 1, last + 1) if f"{SUMS}{n}" in records}
        message.content["arrays"] = _record(site.follow(sums, last))
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        metrics = dict(reply.content.metric_records)
        shown = metrics if self._reveal else {}
        if message.metadata.message_type == MessageType.EVALUATE:
            if not self._reveal:
                reply.content = RecordDict({"metrics": MetricRecord()})
            return reply
        examples = [int(record["num-examples"]) for record in metrics.values() if "num-examples" in record]
        if not examples or "arrays" not in reply.content.array_records:
            raise InputError(
                Reason.BAD_ARGUMENT,
                "reply: expected the record 'arrays' and the metric 'num-examples', got another reply",
                'RecordDict({"arrays": ArrayRecord(...), "metrics": MetricRecord({"num-examples": n})})',
            )
        update, local = site.difference(_arrays(reply.content.array_records["arrays"]))
        submission = site.submit(
            number, update, examples[0], local, on_overflow=self._on_overflow, may_repeat=self._may_repeat
        )
        return Message(RecordDict({RECORD: carrying(submission), **shown}), reply_to=message)


def _arrays(record: Any) -> dict[str, Any]:
    return {name: array.numpy() for name, array in record.items()}


def _record(arrays: dict[str, Any]) -> Any:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})
