"""The ClientApp of FedAvg. Flower starts a process for each message: nothing is imported that it does not need."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.rounds.flower.training import trained

__all__ = ["app"]

app = ClientApp()


@app.train()
def _train(message: Message, context: Context) -> Message:
    update, weight = trained(context, message.content["arrays"]["w"].numpy())
    content = {"arrays": ArrayRecord({"w": Array(update)}), "metrics": MetricRecord({"num-examples": weight})}
    return Message(RecordDict(content), reply_to=message)
