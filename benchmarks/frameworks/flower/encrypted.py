"""The ClientApp with our mod."""

from __future__ import annotations

from typing import Any

from flwr.app import Context, Message

from benchmarks.frameworks.flower.clients import training_app
from client_sdk.flower import EncryptedUpdates

__all__ = ["app"]


def _mod(message: Message, context: Context, call_next: Any) -> Message:
    # All sites of this benchmark run one app on one machine; a hospital writes the name of its keystore instead.
    reply: Message = EncryptedUpdates(str(context.node_config["keystore"]))(message, context, call_next)
    return reply


app = training_app(_mod)
