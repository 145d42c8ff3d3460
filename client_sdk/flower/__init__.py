"""Flower and he-agg, both ways round. Needs the extra `flower`, but for `run_numpy_client`.

* `EncryptedFedAvg` and `EncryptedUpdates`: a Flower run whose server adds ciphertexts and holds no key.
* `run_numpy_client`: a client written for Flower, on our aggregator.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from client_sdk.flower.numpy_client import run_numpy_client

if TYPE_CHECKING:
    from client_sdk.flower.mod import EncryptedUpdates
    from client_sdk.flower.strategy import EncryptedFedAvg

__all__ = ["EncryptedFedAvg", "EncryptedUpdates", "run_numpy_client"]

_LAZY = {"EncryptedFedAvg": "client_sdk.flower.strategy", "EncryptedUpdates": "client_sdk.flower.mod"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
