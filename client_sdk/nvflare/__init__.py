"""NVFlare with our ciphertexts: components that take the places of its own HE ones, one for one. Needs `nvflare`.

HEModelEncryptor                      ModelEncryptor          filter of the sites' results
HEModelDecryptor                      ModelDecryptor          filter of the sites' task data
HEInTimeAccumulateWeightedAggregator  SumAggregator           on the server, no key
HEModelShareableGenerator             SumShareableGenerator   on the server, no key
HEModelSerializeFilter                SumPersistor            on the server, no key
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client_sdk.nvflare.client import ModelDecryptor, ModelEncryptor
    from client_sdk.nvflare.server import SumAggregator, SumPersistor, SumShareableGenerator

__all__ = ["ModelDecryptor", "ModelEncryptor", "SumAggregator", "SumPersistor", "SumShareableGenerator"]

_LAZY = {name: f"client_sdk.nvflare.{'client' if name.startswith('Model') else 'server'}" for name in __all__}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
