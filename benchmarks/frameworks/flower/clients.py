"""The ClientApp: a site's training, on Flower's Message API. Flower starts a process for each message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.frameworks.task import patients_of, train

__all__ = ["app", "training_app"]


def training_app(*mods: Any) -> ClientApp:
    """Return the app, which is the same whatever its mods do."""
    made = ClientApp(mods=list(mods))

    @made.train()
    def _train(message: Message, context: Context) -> Message:
        arrays: Any = message.content["arrays"]
        settings: Any = message.content["config"]
        site = str(context.node_config["site"])
        patients = patients_of(Path(str(context.node_config["patients"])), site)
        model = {name: array.numpy() for name, array in arrays.items()}
        after, n = train(model, patients, site, int(settings["server-round"]) - 1)
        content: dict[str, Any] = {
            "arrays": ArrayRecord({name: Array(array) for name, array in after.items()}),
            "metrics": MetricRecord({"num-examples": n}),
        }
        return Message(RecordDict(content), reply_to=message)

    @made.evaluate()
    def _evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001 - the last sum came with it
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 0})}), reply_to=message)

    return made


app = training_app()
