"""Factors of low-rank adapters: tensors that are multiplied, whose means multiplied are not the mean of products."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator

__all__ = ["FactorWarning", "pairs_in", "warn_of_factors"]

_PAIRS = (
    ("lora_A", "lora_B"),
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_down", "lora_up"),
    ("hada_w1_a", "hada_w1_b"),
    ("hada_w2_a", "hada_w2_b"),
    ("lokr_w1", "lokr_w2"),
    ("vera_lambda_d", "vera_lambda_b"),
)
"""What PEFT, diffusers and others call them."""


class FactorWarning(UserWarning):
    """Both factors of a product are averaged, each for itself."""


def pairs_in(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of factors that are both there."""
    there = set(names)
    for name in names:
        for first, second in _PAIRS:
            other = name.replace(first, second)
            if other != name and other in there:
                yield name, other


def warn_of_factors(names: Collection[str]) -> bool:
    """Warn if both factors of a product are among tensors that are averaged; tell whether it did."""
    found = next(pairs_in(names), None)
    if found is None:
        return False
    warnings.warn(
        f"tensors {found[0]!r} and {found[1]!r} are factors of a product, and their means multiplied are not the mean "
        'of the products. Exact: PeftAdapter("b") for the second alone, or PeftAdapter("product"); PeftAdapter('
        '"factors") averages both without a warning (docs/adapters.md)',
        FactorWarning,
        stacklevel=4,
    )
    return True
