"""JAX arrays are trees of arrays. Runs where JAX is installed."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")

from jax import numpy as jnp  # noqa: E402

from client_sdk.adapters import adapter_for  # noqa: E402


def test_jax_parameters_go_round_and_jax_goes_on_with_them():
    tree = {"kernel": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3), "bias": jnp.zeros(3), "step": jnp.array(3)}
    adapter = adapter_for(tree)
    tensors = adapter.tensors(tree)
    assert {name: array.dtype.name for name, array in tensors.items()} == {"kernel": "float32", "bias": "float32"}
    assert int(adapter.local(tree)["step"]) == 3
    loaded = adapter.load(tree, {name: array + 0.5 for name, array in tensors.items()})
    assert loaded["kernel"].dtype == jnp.bfloat16

    def output(params, x):
        return jnp.sum(x @ params["kernel"].astype(jnp.float32) + params["bias"])

    gradient = jax.grad(output, allow_int=True)(loaded, jnp.ones((1, 2)))
    assert np.asarray(gradient["bias"]).tolist() == [1, 1, 1]
    assert float(output(loaded, jnp.ones((1, 2)))) == 15 + 6 * 0.5 + 3 * 0.5
