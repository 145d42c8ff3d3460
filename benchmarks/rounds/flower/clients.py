"""The ClientApp of FedAvg. Flower starts a process for each message: nothing is imported that it does not need."""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.rounds.flower.training import trained

__all__ = ["app"]

app = ClientApp()


@app.train()
def _train(message: Message, context: Context) -> Message:
    arrays: Any = message.content["arrays"]
    update, weight = trained(context, arrays["w"].numpy())
    content: dict[str, Any] = {
        "arrays": ArrayRecord({"w": Array(update)}),
        "metrics": MetricRecord({"num-examples": weight}),
    }
    return Message(RecordDict(content), reply_to=message)
