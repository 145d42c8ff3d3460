"""Trees of arrays: names, kinds of leaves, round trips to the bit."""

from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from client_sdk.adapters import KerasAdapter, PytreeAdapter, adapter_for
from he_agg.errors import InputError, PlanError, Reason

Layer = namedtuple("Layer", "kernel bias")


def tree():
    return {
        "dense": Layer(np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(3, np.float16)),
        "list": [np.array(2.5), (np.ones((0, 4), np.float64), 1.5)],
        "steps": np.array(7),
        "flag": True,
        "nothing": None,
    }


def test_names_are_paths_and_integers_stay_local():
    adapter = PytreeAdapter()
    assert list(adapter.tensors(tree())) == ["dense/kernel", "dense/bias", "list/0", "list/1/0", "list/1/1"]
    assert list(adapter.local(tree())) == ["steps", "flag"]


def test_a_loaded_tree_has_the_structure_dtypes_and_shapes_of_the_model():
    adapter = PytreeAdapter()
    new = {name: array + 1 for name, array in adapter.tensors(tree()).items()}
    before = tree()
    loaded = adapter.load(before, new)
    assert isinstance(loaded["dense"], Layer)
    assert isinstance(loaded["list"][1], tuple)
    assert loaded["dense"].bias.dtype == np.float16
    assert loaded["list"][1][1] == 2.5
    assert type(loaded["list"][1][1]) is float
    assert loaded["list"][0].shape == ()
    assert loaded["nothing"] is None
    assert loaded["flag"] is True
    assert np.array_equal(before["dense"].kernel, tree()["dense"].kernel), "the old tree stays as it was"


arrays = hnp.arrays(
    st.sampled_from([np.float16, np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@given(st.lists(arrays, min_size=1, max_size=5), st.integers(0, 3))
def test_any_arrays_go_round_to_the_bit(leaves, how):
    views = [(leaf, leaf.T, leaf[..., ::-1] if leaf.ndim else leaf, np.asfortranarray(leaf))[how] for leaf in leaves]
    adapter = PytreeAdapter()
    tensors = adapter.tensors(views)
    back = adapter.load([np.zeros_like(view) for view in views], tensors)
    for view, other in zip(views, back, strict=True):
        assert other.dtype == view.dtype
        assert other.shape == view.shape
        assert other.tobytes() == view.tobytes()  # C order of both


def test_tensors_are_copies():
    model = {"w": np.zeros(3)}
    PytreeAdapter().tensors(model)["w"][0] = 9
    assert model["w"][0] == 0


def test_big_endian_values_travel_in_native_order():
    assert PytreeAdapter().tensors({"w": np.array([1.5, 2.5], ">f4")})["w"].dtype == np.dtype("f4")


def test_include_and_exclude_keep_layers_local():
    adapter = PytreeAdapter(include=["dense/*", "list/*"], exclude="*/bias")
    assert list(adapter.tensors(tree())) == ["dense/kernel", "list/0", "list/1/0", "list/1/1"]
    loaded = adapter.load_local(
        tree(), {k: v + 1 if v.dtype.kind == "f" else v for k, v in adapter.local(tree()).items()}
    )
    assert loaded["dense"].bias.tolist() == [1, 1, 1]
    assert adapter.local(loaded)["steps"] == 7


def test_clip_bounds_by_pattern():
    layout = PytreeAdapter().layout(tree(), {"*/bias": 8.0, "*": 0.5}, 100)
    assert {spec.name: spec.clip for spec in layout.tensors}["dense/bias"] == 8.0
    assert layout.tensors[0].clip == 0.5
    with pytest.raises(PlanError, match="dense/kernel") as caught:
        PytreeAdapter().layout(tree(), {"*/bias": 8.0}, 100)
    assert "*" in caught.value.hint


class Foreign:
    """An array of another library."""

    def __init__(self, values):
        self.values = values
        self.dtype = values.dtype

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def test_foreign_arrays_are_read_through_array_protocol():
    model = {"w": Foreign(np.ones(2, np.float32))}
    assert PytreeAdapter().tensors(model)["w"].tolist() == [1, 1]
    assert PytreeAdapter().load(model, {"w": np.zeros(2, np.float32)})["w"].tolist() == [0, 0]


class SparseLike:
    def toarray(self):
        return np.zeros(2)


@pytest.mark.parametrize(
    ("leaf", "says", "do"),
    [
        (np.zeros(2, complex), "complex128", "real and imaginary"),
        (SparseLike(), "sparse", "toarray"),
        (np.array(["a"]), "numbers", "float64"),
        (np.array([object()]), "numbers", "exclude"),
        (np.ma.array([1.0, 777.0], mask=[False, True]), "1 masked", "filled"),
    ],
)
def test_what_cannot_be_averaged_is_refused_with_a_way_out(leaf, says, do):
    with pytest.raises(InputError, match=says) as caught:
        PytreeAdapter().tensors({"w": np.ones(2), "bad": leaf})
    assert "'bad'" in caught.value.message
    assert do in caught.value.hint
    excluding, model = PytreeAdapter(exclude="bad"), {"w": np.ones(2), "bad": leaf}
    loaded = excluding.load_local(excluding.load(model, {"w": np.zeros(2)}), excluding.local(model))
    assert loaded["w"].tolist() == [0, 0]
    assert loaded["bad"] is leaf


def test_the_first_tensor_that_differs_is_named():
    adapter = PytreeAdapter()
    tensors = adapter.tensors(tree())
    changes: list[tuple[dict[str, np.ndarray], Reason, str]] = [
        ({"dense/bias": np.zeros(4, np.float16)}, Reason.WRONG_SHAPE, "dense/bias"),
        ({"list/0": np.array(1, np.float32)}, Reason.WRONG_DTYPE, "list/0"),
        ({"more": np.zeros(1)}, Reason.EXTRA_TENSOR, "more"),
    ]
    for change, reason, says in changes:
        with pytest.raises(InputError, match=says) as caught:
            adapter.load(tree(), tensors | change)
        assert caught.value.reason == reason
        assert caught.value.hint
    del tensors["dense/kernel"]
    with pytest.raises(InputError, match="dense/kernel"):
        adapter.load(tree(), tensors)


def test_no_float_tensor_at_all_is_an_error():
    with pytest.raises(InputError, match="at least one"):
        PytreeAdapter().tensors({"steps": 1})


def test_paths_that_collide_are_refused():
    with pytest.raises(InputError, match="twice"):
        PytreeAdapter().tensors({"a/b": 1.0, "a": {"b": 2.0}})


class Variable:
    def __init__(self, path):
        self.path = path


class KerasLike:
    def __init__(self):
        self.values = [np.zeros((2, 2), np.float32), np.zeros(2, np.float32)]
        self.weights = [Variable("dense/kernel"), Variable("dense/bias")]

    def get_weights(self):
        return [value.copy() for value in self.values]

    def set_weights(self, values):
        self.values = values


def test_keras_weights_are_set_in_place():
    model = KerasLike()
    adapter = adapter_for(model, exclude="*/bias")
    assert isinstance(adapter, KerasAdapter)
    assert adapter.load(model, {"dense/kernel": np.ones((2, 2), np.float32)}) is model
    assert model.values[0].tolist() == [[1, 1], [1, 1]]
    assert model.values[1].tolist() == [0, 0]
    del model.weights
    assert list(KerasAdapter().tensors(model)) == ["0", "1"]


def test_a_list_of_weights_and_a_single_array_are_trees_too():
    assert list(adapter_for([np.zeros(1), np.zeros(2)]).tensors([np.zeros(1), np.zeros(2)])) == ["0", "1"]
    assert list(adapter_for(np.zeros(2)).tensors(np.zeros(2))) == ["value"]


def test_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="expected a PyTorch module"):
        adapter_for(object())
