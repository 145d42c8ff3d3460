"""Low-rank adapters: what averaging factors apart means, and the way that is exact."""

import numpy as np

from client_sdk.adapters import PytreeAdapter

RANK, ROWS, COLUMNS = 4, 24, 16


def sites(rng, moving):
    """Factors of three sites after some training from the same start."""
    a, b = rng.normal(size=(RANK, COLUMNS)), np.zeros((ROWS, RANK))
    return [
        {
            "lora_A": a + (rng.normal(size=a.shape) if moving else 0),
            "lora_B": b + rng.normal(size=b.shape),
        }
        for _ in range(3)
    ]


def off(models):
    """How far the product of means is from the mean of products, relative to that."""
    right = np.mean([m["lora_B"] @ m["lora_A"] for m in models], axis=0)
    got = np.mean([m["lora_B"] for m in models], axis=0) @ np.mean([m["lora_A"] for m in models], axis=0)
    return np.linalg.norm(got - right) / np.linalg.norm(right)


def test_factors_do_not_average_and_one_of_them_does():
    rng = np.random.default_rng(20261128)
    assert min(off(sites(rng, moving=True)) for _ in range(50)) > 0.2
    assert max(off(sites(rng, moving=False)) for _ in range(50)) < 1e-14


def test_one_factor_is_picked_by_its_name():
    model = sites(np.random.default_rng(1), moving=True)[0]
    assert list(PytreeAdapter(include="*lora_B*").tensors(model)) == ["lora_B"]
