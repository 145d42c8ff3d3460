"""Shares of rows, and results to the bit."""

import itertools


def bits(value):
    """Everything in a result, for comparisons to the bit."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: bits(getattr(value, name)) for name in value.__dataclass_fields__}
    if hasattr(value, "mask"):
        return value.filled(-1).tobytes(), value.mask.tobytes()
    if hasattr(value, "tobytes"):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(member) for key, member in value.items()}
    return repr(value)


def split(rng, rows, parts=3):
    """Unequal shares of the row numbers, none empty."""
    cuts = sorted(rng.choice(range(1, rows), size=parts - 1, replace=False).tolist())
    order = rng.permutation(rows)
    return [order[a:b] for a, b in itertools.pairwise([0, *cuts, rows])]
