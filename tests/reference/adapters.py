"""Models of all frameworks on awkward tensors: state, integers, mean, state again, against fractions by themselves.

What a tensor is (averaged, a statistic, a variance, or the site's own) is said here where it is made, not asked of the
adapter.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from client_sdk.adapters import KerasAdapter, PytreeAdapter, SklearnAdapter, adapter_for
from he_agg import dequantize, quantize
from he_agg.errors import HeAggError
from he_agg.plan.plan import Plan
from tests.reference.grids import exact_means, on_the_grid
from tests.reference.hospitals import refused

Pair = namedtuple("Pair", "kernel bias")
SHAPES = [(), (0,), (3,), (2, 3), (1, 2, 2), (2, 0)]


@dataclass
class Leaf:
    """A tensor of a model.

    Attributes:
        values: at each site, in its dtype.
        what: "weight", "statistic", "variance", or "own": not averaged.
    """

    values: list[Any]
    what: str = "weight"


def numbers(rng, shape, scale=1.0):
    """Float64 numbers: zero, constant, tiny, skewed, or plain."""
    kind = int(rng.integers(0, 5))
    plain = rng.normal(0, scale, shape)
    return np.asarray([np.zeros(shape), np.full(shape, scale), plain * 1e-6, plain**3, plain][kind])


def averaged(rng, adapter, models, leaves, read):
    """Average the sites' models and load the mean at each of them.

    Args:
        models: one of each site.
        leaves: by name, what is in them.
        read: of a model: its tensors by name as arrays that hold them exactly.
    """
    shared = [name for name, leaf in leaves.items() if leaf.what != "own"]
    exact = {n: [np.asarray(v).astype(np.float64) for v in leaves[n].values] for n in shared}
    largest = max((np.abs(v).max(initial=0) for own in exact.values() for v in own), default=0)
    clip = float(rng.choice([1.0, 1.5, 64.0])) * max(float(largest), 1e-6)
    cap = int(rng.choice([1, 10, 1000]))
    weights = rng.integers(1, cap + 1, len(models)).tolist()
    layout = adapter.layout(models[0], clip, cap)
    assert sorted(spec.name for spec in layout.tensors) == sorted(shared)
    plan = Plan.create("x", layout, value_bits=int(rng.choice([8, 16, 24])), max_sites=5, min_sites=2)
    assert adapter.statistics(models[0]) == {n for n in shared if leaves[n].what in ("statistic", "variance")}
    sent = []
    for site, model in enumerate(models):
        tensors = adapter.tensors(model)
        for name, array in tensors.items():
            assert array.flags.c_contiguous
            assert array.flags.writeable
            assert np.array_equal(array.astype(np.float64), exact[name][site]), name
        values = quantize(plan, tensors, weights[site]).values
        on_the_grid(plan, values, {n: exact[n][site] for n in shared}, weights[site])
        sent.append(values)
        for array in tensors.values():
            array[...] = 77  # a copy: nothing of it is the model's
    mean = dequantize(plan, np.sum(sent, axis=0, dtype=np.int64), len(sent))
    ends = exact_means(plan, sent, sum(weights))
    for site, model in enumerate(models):
        before = adapter.local(model)
        loaded = adapter.load_local(adapter.load(model, mean.tensors), before)
        found = read(loaded)
        assert found.keys() >= leaves.keys()
        for name, leaf in leaves.items():
            got, was = found[name], leaf.values[site]
            if leaf.what == "own":
                assert np.array_equal(got, np.asarray(was)), name
                continue
            assert got.shape == np.shape(was), name
            low, high = (end.astype(np.float64) for end in ends[name])
            if leaf.what == "variance":
                low, high = np.maximum(low, 0), np.maximum(high, 0)
            low, high = (coarse(end, was).astype(np.float64) for end in (low, high))
            assert ((low <= got) & (got <= high)).all(), name


def without(rng, adapter, other, models, leaves, read, why):
    """Average; where there is a reason to refuse a tensor named odd, see it refused, and all go well without it."""
    if not why:
        averaged(rng, adapter, models, leaves, read)
        return
    with pytest.raises(HeAggError, match="odd") as caught:
        adapter.tensors(models[0])
    averaged(rng, other, models, leaves, read)
    refused(caught.value, caught.value.hint, why)


def coarse(array, like):
    """Round as the dtype of a tensor does."""
    if hasattr(like, "rounds"):
        return like.rounds(array)
    return np.asarray(array).astype(getattr(like, "dtype", np.dtype(float)))


def sites(rng):
    return int(rng.integers(2, 5))


def laid_out(rng, array):
    """The same values somewhere else in memory."""
    kind = int(rng.integers(0, 6))
    if kind == 0 and array.ndim:
        return np.asfortranarray(array)
    if kind == 1 and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if kind == 2 and array.ndim:
        return array[..., ::-1].copy()[..., ::-1]
    if kind == 3 and array.ndim > 1:
        return array.T.copy().T
    if kind == 4:
        array = array.copy()
        array.flags.writeable = False
    return array


def small_float(name):
    """A dtype of ml_dtypes, which JAX brings."""
    try:
        import ml_dtypes
    except ImportError:
        return np.dtype(np.float32)
    return np.dtype(getattr(ml_dtypes, name))


def leaf_of(rng, n, name=""):
    """One tensor of a tree, at n sites."""
    shape = SHAPES[int(rng.integers(0, len(SHAPES)))]
    what = {"running_var": "variance", "running_mean": "statistic"}.get(name, "weight")
    kind = int(rng.integers(0, 9))
    if kind == 0:
        dtype = [np.int32, np.int64, np.uint8][int(rng.integers(0, 3))]
        return Leaf([laid_out(rng, rng.integers(0, 9, shape).astype(dtype)) for _ in range(n)], "own")
    if kind == 1:
        return Leaf([rng.random(shape) < 0.5 for _ in range(n)], "own")
    if kind == 2:
        make = [lambda: int(rng.integers(-9, 9)), lambda: bool(rng.random() < 0.5)][int(rng.integers(0, 2))]
        return Leaf([make() for _ in range(n)], "own")
    if kind == 3:
        return Leaf([float(rng.random()) for _ in range(n)], what)
    dtypes = ["f2", "f4", "f8", ">f4", ">f8", small_float("bfloat16"), small_float("float8_e5m2")]
    dtype = np.dtype(dtypes[int(rng.integers(0, len(dtypes)))])
    values = [numbers(rng, shape) for _ in range(n)]
    if what == "variance":
        values = [abs(v) for v in values]
    return Leaf([laid_out(rng, np.asarray(v).astype(dtype)) for v in values], what)


REFUSED = {
    "complex numbers": lambda rng: np.zeros(2, complex),
    "objects": lambda rng: np.array([None, "x"], dtype=object),
    "text": lambda rng: np.array(["a"]),
    "dates": lambda rng: np.array(["2026-01-01"], "datetime64[D]"),
    "spans of time": lambda rng: np.zeros(2, "timedelta64[D]"),
    "long doubles": lambda rng: np.zeros(2, np.longdouble),
    "records": lambda rng: np.zeros(2, [("a", float)]),
    "masked values": lambda rng: np.ma.array([1.0, 2.0], mask=[False, True]),
}


def trees(rng):
    """Nested dicts, lists, tuples and namedtuples of NumPy arrays and plain numbers."""
    n, names = sites(rng), ["w", "b", "running_var", "running_mean", "deep"]
    leaves = {name: leaf_of(rng, n, name) for name in names[: int(rng.integers(1, 6))]}
    leaves["always"] = Leaf([rng.normal(size=2) for _ in range(n)])
    refused_kind = str(rng.choice(list(REFUSED))) if rng.random() < 0.15 else ""

    def model(site):
        own: dict[str, Any] = {name: leaf.values[site] for name, leaf in leaves.items()}
        tree: dict[str, Any] = {"block": {k: v for k, v in own.items() if k not in ("w", "b")}, "none": None}
        tree["list"] = [Pair(own.get("w"), own.get("b"))]
        if refused_kind:
            tree["odd"] = REFUSED[refused_kind](rng)
        return tree

    def where(name):
        return {"w": "list/0/kernel", "b": "list/0/bias"}.get(name, f"block/{name}")

    def read(tree):
        own = {**tree["block"], "w": tree["list"][0].kernel, "b": tree["list"][0].bias}
        for name, leaf in leaves.items():
            got, was = own[name], leaf.values[0]
            assert type(got) is type(was) or isinstance(got, np.ndarray)
            assert np.asarray(got).dtype == np.asarray(was).dtype
        return {where(k): exactly(v) for k, v in own.items() if v is not None}

    models = [model(site) for site in range(n)]
    placed = {where(name): leaf for name, leaf in leaves.items()}
    adapter = adapter_for(models[0])
    assert type(adapter) is PytreeAdapter
    without(rng, adapter, PytreeAdapter(exclude="odd"), models, placed, read, refused_kind)


def exactly(value):
    array = np.asarray(value)
    return array if array.dtype.kind in "iub" else array.astype(np.float64)


def jax_trees(rng):
    """JAX's arrays."""
    pytest.importorskip("jax", reason="JAX is not installed")
    from jax import numpy as jnp

    n = sites(rng)
    dtypes = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.int32, jnp.bool_]
    spread = [jnp.abs(jnp.asarray(numbers(rng, (2,)), jnp.float32)) for _ in range(n)]
    leaves = {"batch_stats/var": Leaf(spread, "variance")}
    for name in ("a", "b", "c")[: int(rng.integers(1, 4))]:
        dtype, shape = dtypes[int(rng.integers(0, 5))], SHAPES[int(rng.integers(0, 6))]
        own = [jnp.asarray(numbers(rng, shape, 3), dtype) for _ in range(n)]
        leaves[name] = Leaf(own, "own" if dtype in (jnp.int32, jnp.bool_) else "weight")

    def model(site):
        flat = {name: leaf.values[site] for name, leaf in leaves.items()}
        return {"batch_stats": {"var": flat.pop("batch_stats/var")}, **flat}

    def read(tree):
        flat = {"batch_stats/var": tree["batch_stats"]["var"], **{k: v for k, v in tree.items() if k != "batch_stats"}}
        assert all(jnp.asarray(v).dtype == leaves[k].values[0].dtype for k, v in flat.items())
        return {k: exactly(v) for k, v in flat.items()}

    averaged(rng, PytreeAdapter(), [model(site) for site in range(n)], leaves, read)


def keras_models(rng):
    """Keras: layers with statistics, frozen ones, seeds of dropout, half precision."""
    if importlib.util.find_spec("torch") is not None:
        os.environ.setdefault("KERAS_BACKEND", "torch")  # not the default, which is large
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of its arrays, with torch under it
        keras_case(keras, rng)


def keras_case(keras, rng):
    n, dtype = sites(rng), str(rng.choice(["float32", "float64", "float16"]))
    layers = [
        lambda name: keras.layers.Dense(2, dtype=dtype, name=name),
        lambda name: keras.layers.BatchNormalization(name=name),
        lambda name: keras.layers.Dropout(0.5, name=name),
        lambda name: keras.layers.Dense(3, trainable=False, use_bias=False, name=name),
    ]
    chosen = [0, *rng.integers(0, 4, int(rng.integers(0, 3))).tolist()]

    def model():
        stack = [layers[i](f"layer{place}") for place, i in enumerate(chosen)]
        return keras.Sequential([keras.Input((2,)), *stack], name="net")

    models = [model() for _ in range(n)]
    leaves: dict[str, Leaf] = {}
    named = KerasAdapter().state(models[0])
    for name, array in named.items():
        last = name.rpartition("/")[2]
        what = {"moving_mean": "statistic", "moving_variance": "variance"}.get(last, "weight")
        if array.dtype.kind != "f":
            leaves[name] = Leaf([array] * n, "own")
            continue
        values = [numbers(rng, array.shape).astype(array.dtype) for _ in range(n)]
        leaves[name] = Leaf([abs(v) if what == "variance" else v for v in values], what)
    for site, built in enumerate(models):
        built.set_weights([leaf.values[site] for leaf in leaves.values()])

    def read(built):
        weights = built.get_weights()
        assert [w.dtype for w in weights] == [a.dtype for a in named.values()]
        return {k: exactly(v) for k, v in zip(named, weights, strict=True)}

    adapter = adapter_for(models[0])
    assert type(adapter) is KerasAdapter
    averaged(rng, adapter, models, leaves, read)


def estimators(rng):
    """scikit-learn: coefficients and networks fitted on each hospital's own rows."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from sklearn import discriminant_analysis, linear_model, naive_bayes, neural_network, svm
    from sklearn.base import is_classifier
    from sklearn.cross_decomposition import PLSRegression

    n, d = sites(rng), int(rng.integers(1, 5))
    width = int(rng.choice([2, 2, 3]))
    kinds: list[Any] = [
        lambda: linear_model.LogisticRegression(),
        lambda: linear_model.SGDClassifier(random_state=0),
        lambda: linear_model.Perceptron(random_state=0),
        lambda: linear_model.RidgeClassifier(),
        lambda: linear_model.LinearRegression(fit_intercept=bool(rng.random() < 0.5)),
        lambda: linear_model.Ridge(),
        lambda: linear_model.Lasso(0.01),
        lambda: linear_model.SGDRegressor(random_state=0),
        lambda: linear_model.HuberRegressor(max_iter=500),
        lambda: svm.LinearSVC(),
        lambda: svm.SVC(kernel="linear"),
        lambda: svm.SVR(kernel="linear"),
        lambda: discriminant_analysis.LinearDiscriminantAnalysis(),
        lambda: neural_network.MLPClassifier((3,), max_iter=3, random_state=0),
        lambda: neural_network.MLPRegressor(hidden_layer_sizes=(2, 2), max_iter=3, random_state=0),
        lambda: PLSRegression(1),
        lambda: naive_bayes.GaussianNB(),
    ]
    make = kinds[int(rng.integers(0, len(kinds)))]
    state = rng.bit_generator.state
    models, rows = [], []
    for _ in range(n):
        after = rng.bit_generator.state
        rng.bit_generator.state = state
        model = make()
        rng.bit_generator.state = after
        y = np.tile(np.arange(width), 12)
        X = rng.normal(0, 1, (y.size, d)) + y[:, None]
        X = X.astype(np.float32) if rng.random() < 0.3 else X
        target = y if is_classifier(model) else X.sum(axis=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models.append(model.fit(X.astype(np.float64), target))
        rows.append(X)
    kind = type(models[0]).__name__
    cannot = kind in ("SVC", "SVR", "PLSRegression", "GaussianNB")
    adapter = adapter_for(models[0])
    assert type(adapter) is SklearnAdapter
    labels = " of " + "|".join(map(str, range(width))) if hasattr(models[0], "classes_") else ""
    lists = ("coefs_", "intercepts_") if hasattr(models[0], "coefs_") else ()
    leaves = {
        f"{a}/{i}{labels}": Leaf([np.array(getattr(m, a)[i]) for m in models])
        for a in lists
        for i in range(len(getattr(models[0], a)))
    }
    if not lists and not cannot:
        leaves = {f"{a}{labels}": Leaf([np.array(getattr(m, a)) for m in models]) for a in ("coef_", "intercept_")}
    if hasattr(models[0], "t_"):
        leaves["t_"] = Leaf([np.array(float(m.t_)) for m in models], "own")

    def read(model):
        found = {}
        for name in leaves:
            attribute, _, number = name.partition(" ")[0].partition("/")
            value = getattr(model, attribute)
            found[name] = np.asarray(value[int(number)] if number else value, dtype=np.float64)
        if not lists:
            by_hand = rows[0].astype(np.float64) @ np.atleast_2d(model.coef_).T + model.intercept_
            got = model.decision_function(rows[0]) if labels else model.predict(rows[0])
            assert np.allclose(np.asarray(got).reshape(by_hand.shape), by_hand, rtol=1e-4, atol=1e-4)
        return found

    try:
        averaged(rng, adapter, models, leaves, read)
    except HeAggError as error:
        refused(error, cannot and kind in error.message and error.hint, f"scikit-learn's {kind}")
    assert not cannot, f"not refused: {kind}"


CASES = {f.__name__: f for f in (trees, jax_trees, keras_models, estimators)}
