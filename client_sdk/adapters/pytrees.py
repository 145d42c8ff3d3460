"""Nested dicts, lists, tuples and namedtuples of arrays: NumPy, JAX and Flax parameters, Keras weights.

The name of a leaf is its path: ``{"dense": [w, b]}`` has ``dense/0`` and ``dense/1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.adapters.base import Adapter, Tensors, numeric
from he_agg.errors import InputError, Reason

__all__ = ["KerasAdapter", "PytreeAdapter"]

SEPARATOR = "/"


class PytreeAdapter(Adapter[Any]):
    """For models that are trees of arrays. `load` returns a new tree of the same structure; the old one stays.

    Leaves may be anything NumPy can read through `__array__`, so JAX arrays too; loaded leaves are NumPy arrays of the
    leaf's dtype (Python floats stay floats), which JAX functions take as they are. Integer and boolean leaves and None
    stay local. A tensor's float dtype is kept; bfloat16 travels as float32.
    """

    def state(self, model: Any) -> Tensors:
        """Return every numeric leaf by its path, as a copy."""
        leaves: dict[str, Any] = {}
        for name, leaf in _leaves(model, ""):
            if name in leaves:
                raise InputError(
                    Reason.BAD_ARGUMENT,
                    f"expected each path once, got {name!r} twice",
                    f"rename a key: keys must not contain {SEPARATOR!r} or be equal as text",
                )
            leaves[name] = leaf
        return self._read(leaves.items(), numeric)

    def write(self, model: Any, tensors: Mapping[str, NDArray[Any]]) -> Any:
        """Return a new tree with some leaves replaced."""
        return _rebuilt(model, "", tensors)


class KerasAdapter(PytreeAdapter):
    """For objects with `get_weights` and `set_weights`, such as Keras models. Writes in place.

    Tensors are named by their variable's `path` where `model.weights` tells it, else by their number. Keras numbers
    layers without a name through the whole process, so that a model that is built again has other paths; here they are
    numbered within the layer that they are in, and a model has the same names wherever it was built.
    """

    naming = (
        "Keras counts layers of the same kind in one process (dense, dense_1): give layers and model names of their "
        "own, or call keras.utils.clear_session() before the model is built"
    )

    def state(self, model: Any) -> Tensors:
        """Return every weight by its variable's path."""
        weights = model.get_weights()
        return self._read(zip(_paths(model, len(weights)), weights, strict=True), numeric)

    def write(self, model: Any, tensors: Mapping[str, NDArray[Any]]) -> Any:
        """Set some weights of the model."""
        weights = model.get_weights()
        names = _paths(model, len(weights))
        model.set_weights([_like(w, tensors[n]) if n in tensors else w for n, w in zip(names, weights, strict=True)])
        return model


def _paths(model: Any, count: int) -> list[str]:
    variables = getattr(model, "weights", None)
    paths = [str(getattr(v, "path", i)) for i, v in enumerate(variables)] if isinstance(variables, list | tuple) else []
    for names in (_renumbered(paths, _unnamed(model)), paths):
        if len(set(names)) == count == len(names):
            return names
    return [str(i) for i in range(count)]


def _unnamed(model: Any) -> dict[str, str]:
    """Return the names that Keras has made up for a model and its layers, with what they begin with: their class."""
    found, left = {}, [model]
    while left:
        layer = left.pop()
        kind = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", kind).lower()
        if re.fullmatch(rf"{kind}(_\d+)?", name := str(getattr(layer, "name", ""))):
            found[name] = kind
        layers = getattr(layer, "layers", None)
        left += layers if isinstance(layers, list | tuple) else []
    return found


def _renumbered(paths: list[str], unnamed: Mapping[str, str]) -> list[str]:
    """Number what Keras has named from 0 within what it is in, in the order of the weights; 0 is not written."""
    numbers: dict[tuple[str, str], dict[str, int]] = {}
    names = []
    for path in paths:
        name = ""
        for word in path.split("/"):
            if word in unnamed:
                seen = numbers.setdefault((name, unnamed[word]), {})
                number = seen.setdefault(word, len(seen))
                word = f"{unnamed[word]}_{number}" if number else unnamed[word]
            name = f"{name}/{word}" if name else word
        names.append(name)
    return names


def _children(node: Any) -> Iterator[tuple[str, Any]] | None:
    """Return keys and children of an inner node; None for a leaf."""
    if isinstance(node, Mapping):
        return ((str(key), child) for key, child in node.items())
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return iter(zip(node._fields, node, strict=True))
    if isinstance(node, list | tuple):
        return ((str(i), child) for i, child in enumerate(node))
    return None


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = _children(node)
    if children is None:
        if node is not None:
            yield path or "value", node
        return
    for key, child in children:
        yield from _leaves(child, f"{path}{SEPARATOR}{key}" if path else key)


def _rebuilt(node: Any, path: str, tensors: Mapping[str, NDArray[Any]]) -> Any:
    children = _children(node)
    if children is None:
        name = path or "value"
        return node if node is None or name not in tensors else _like(node, tensors[name])
    new = [_rebuilt(child, f"{path}{SEPARATOR}{key}" if path else key, tensors) for key, child in children]
    if isinstance(node, Mapping):
        pairs = dict(zip(node, new, strict=True))
        return pairs if type(node) is dict else type(node)(pairs)  # type: ignore[call-arg]
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return type(node)(*new)
    return type(node)(new)


def _like(leaf: Any, value: NDArray[Any]) -> Any:
    """Return a value as a leaf of the same kind."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return type(leaf)(value)
    dtype = getattr(leaf, "dtype", None)
    return np.array(value, dtype=np.asarray(leaf).dtype if dtype is None else np.dtype(dtype), order="C", copy=True)
