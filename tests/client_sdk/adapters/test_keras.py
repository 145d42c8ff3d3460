"""Keras models that are built again in one process: the same tensors under the same names."""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

import numpy as np
import pytest

from client_sdk.adapters import KerasAdapter

NAMES = [
    "sequential/dense/kernel",
    "sequential/dense/bias",
    "sequential/batch_normalization/gamma",
    "sequential/head_2/kernel",
    "sequential/sequential/dense/kernel",
    "sequential/dense_1/kernel",
]


class Sequential:
    """Named as Keras does, by counters of the whole process. `Dense` and the others are below."""

    def __init__(self, name: str, layers: list[Any]) -> None:
        self.name, self.layers = name, layers


class Dense(Sequential):
    def __init__(self, name: str) -> None:
        self.name = name


class BatchNormalization(Dense):
    pass


class Variable:
    def __init__(self, path: str) -> None:
        self.path = path


class Built(Sequential):
    """What KerasAdapter needs of a model whose automatic names begin at some number."""

    def __init__(self, first: int) -> None:
        def named(kind: str, number: int) -> str:
            return f"{kind}_{first + number}" if first + number else kind

        outer, inner = named("sequential", 1), named("sequential", 0)
        one, two, three, norm = named("dense", 0), named("dense", 1), named("dense", 2), named("batch_normalization", 0)
        layers = [
            Dense(one),
            BatchNormalization(norm),
            Dense("head_2"),
            Sequential(inner, [Dense(two)]),
            Dense(three),
        ]
        super().__init__(outer, layers)
        self.weights = [
            Variable(f"{outer}/{path}")
            for path in (
                f"{one}/kernel",
                f"{one}/bias",
                f"{norm}/gamma",
                "head_2/kernel",
                f"{inner}/{two}/kernel",
                f"{three}/kernel",
            )
        ]

    def get_weights(self) -> list[np.ndarray]:
        return [np.zeros(2, np.float32) for _ in self.weights]


Built.__name__ = "Sequential"  # the class is what automatic names are made of


@pytest.mark.parametrize("first", [0, 1, 7])
def test_names_do_not_depend_on_what_was_built_before(first):
    assert list(KerasAdapter().tensors(Built(first))) == NAMES


@pytest.fixture(scope="module")
def keras():
    if importlib.util.find_spec("torch") is not None:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras", reason="Keras is not installed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_real_model_that_is_built_again_has_the_same_tensors(keras):
    def build():
        inner = keras.Sequential([keras.layers.Dense(2)])
        layers = [
            keras.layers.Dense(3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, name="head_2"),
            inner,
            keras.layers.Dense(1),
        ]
        return keras.Sequential([keras.Input((2,)), *layers])

    adapter = KerasAdapter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        first, second = build(), build()
    assert {v.path for v in first.weights} != {v.path for v in second.weights}
    assert list(adapter.state(first)) == list(adapter.state(second))
    assert set(NAMES) < set(adapter.tensors(first))
    adapter.load(second, adapter.tensors(first))
    adapter.load_local(second, adapter.local(first))
