"""The pure core: tensors to exact integers, integers to residues, residues to sums. No network, no clock, no files.

::

    from he_agg import Layout, Plan

    layout = Layout.of(update, clip=1.0, weight_cap=10_000)
    plan = Plan.create("demo", layout, max_sites=5)

Names are loaded when they are asked for, so importing the package costs nothing and loads no NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from he_agg.errors import (
    ConfigError,
    DecryptionError,
    HeAggError,
    InputError,
    KeystoreError,
    PlanError,
    ProtocolError,
    Reason,
    TransportError,
    WireError,
)

if TYPE_CHECKING:
    from he_agg.plan.fixedpoint import Mean, dequantize, quantize
    from he_agg.plan.layout import Layout, TensorSpec
    from he_agg.plan.plan import Plan
    from he_agg.plan.rounded import ResolutionWarning, Rounded

__all__ = [
    "ConfigError",
    "DecryptionError",
    "HeAggError",
    "InputError",
    "KeystoreError",
    "Layout",
    "Mean",
    "Plan",
    "PlanError",
    "ProtocolError",
    "Reason",
    "ResolutionWarning",
    "Rounded",
    "TensorSpec",
    "TransportError",
    "WireError",
    "dequantize",
    "quantize",
]

_WHEN_ASKED_FOR = {
    "Layout": "layout",
    "Mean": "fixedpoint",
    "Plan": "plan",
    "ResolutionWarning": "rounded",
    "Rounded": "rounded",
    "TensorSpec": "layout",
    "dequantize": "fixedpoint",
    "quantize": "fixedpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _WHEN_ASKED_FOR:
        raise AttributeError(f"module 'he_agg' has no attribute {name!r}")
    return getattr(import_module(f"he_agg.plan.{_WHEN_ASKED_FOR[name]}"), name)
