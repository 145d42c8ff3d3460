"""The ClientApp of FedAvg over our ciphertexts: the same client, with our mod. Its environment has he-agg as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from benchmarks.rounds.flower.training import trained
from client_sdk.flower import EncryptedUpdates

__all__ = ["app"]


def _mod(message: Message, context: Context, call_next: Any) -> Message:
    # Where the keystore is, is known with the first message only. Sites send the same update in every round here.
    keystore = Path(str(context.run_config["keys"])) / f"{context.node_config['site']}" / "keystore"
    reply: Message = EncryptedUpdates(keystore, on_overflow="clip", may_repeat=True)(message, context, call_next)
    return reply


app = ClientApp(mods=[_mod])


@app.train()
def _train(message: Message, context: Context) -> Message:
    arrays: Any = message.content["arrays"]
    model = arrays["w"].numpy()
    settings: Any = message.content["config"]
    rounds = int(settings["server-round"]) - 1
    # The model has moved by the same mean in each round; before the first there is nothing to compare.
    update, weight = trained(context, model / rounds if rounds else model[:1])
    content: dict[str, Any] = {
        "arrays": ArrayRecord({"w": Array(model + update)}),
        "metrics": MetricRecord({"num-examples": weight}),
    }
    return Message(RecordDict(content), reply_to=message)
