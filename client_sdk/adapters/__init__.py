"""Models of PyTorch, scikit-learn, Keras, JAX and plain NumPy as named arrays, and back.

::

    from client_sdk.adapters import adapter_for

    adapter = adapter_for(model)                  # or TorchAdapter(exclude="bn*"), ...
    layout = adapter.layout(model, clip=1.0, weight_cap=2048)
    before = adapter.tensors(model)               # dict of NumPy arrays, copies
    adapter.load(model, before)

No framework is imported before one of its models, or its adapter, is asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from client_sdk.adapters.base import Adapter, Tensors, missing_extra
from client_sdk.adapters.factors import FactorWarning
from client_sdk.adapters.pytrees import KerasAdapter, PytreeAdapter
from he_agg.errors import InputError, Reason

if TYPE_CHECKING:
    from client_sdk.adapters.base import Patterns
    from client_sdk.adapters.peft import PeftAdapter
    from client_sdk.adapters.sklearn import SklearnAdapter
    from client_sdk.adapters.torch import TorchAdapter, TorchGradients

__all__ = [
    "Adapter",
    "FactorWarning",
    "KerasAdapter",
    "PeftAdapter",
    "PytreeAdapter",
    "SklearnAdapter",
    "Tensors",
    "TorchAdapter",
    "TorchGradients",
    "adapter_for",
    "missing_extra",
]

_LAZY = {
    "PeftAdapter": "client_sdk.adapters.peft",
    "TorchAdapter": "client_sdk.adapters.torch",
    "TorchGradients": "client_sdk.adapters.torch",
    "SklearnAdapter": "client_sdk.adapters.sklearn",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def adapter_for(model: Any, include: Patterns = "*", exclude: Patterns = ()) -> Adapter[Any]:
    """Make the adapter for a model.

    Args:
        model: a PyTorch module, a scikit-learn estimator, an object with get_weights and set_weights, or a tree of
            arrays.
        include: patterns of tensors that are averaged.
        exclude: patterns of those that stay local.

    Raises:
        InputError: none of these.
    """
    # A model of a framework cannot exist before its framework was imported: nothing is loaded to find out.
    # Keras first: on top of PyTorch its models are modules, too, whose tensors have lost their names.
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Layer):
        return KerasAdapter(include, exclude)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return __getattr__("TorchAdapter")(include, exclude)  # type: ignore[no-any-return]
    sklearn = sys.modules.get("sklearn.base")
    if sklearn is not None and isinstance(model, sklearn.BaseEstimator):
        return __getattr__("SklearnAdapter")(include, exclude)  # type: ignore[no-any-return]
    if hasattr(model, "get_weights") and hasattr(model, "set_weights"):
        return KerasAdapter(include, exclude)
    if isinstance(model, dict | list | tuple) or hasattr(model, "__array__") or hasattr(model, "keys"):
        return PytreeAdapter(include, exclude)
    raise InputError(
        Reason.BAD_ARGUMENT,
        f"expected a PyTorch module, a scikit-learn estimator, Keras-like weights or a tree of arrays, got "
        f"{type(model).__name__}",
        "hand in `adapter=` with a subclass of client_sdk.adapters.Adapter for other models",
    )
