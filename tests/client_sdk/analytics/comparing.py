"""Shares of rows, and results to the bit."""

import itertools

import numpy as np

from client_sdk.analytics.course import Course, vector_size

MAGNITUDE = 2**23 - 1


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


def in_step(question, shares, absent=lambda number: (), most=400):
    """Ask a question at sites that keep step by themselves, some of them absent in some sums; exact, without a network.

    Args:
        absent: of the number of a sum, from 1: which sites are not in it.

    Returns:
        The result, which is the same to the bit at every site, and the members.
    """
    names = [f"hospital-{i}" for i in range(len(shares))]
    size = vector_size(question, MAGNITUDE)
    courses = {name: Course(question, MAGNITUDE) for name in names}
    own = {name: question.prepared(*share) for name, share in zip(names, shares, strict=True)}
    for number in range(1, most):
        here = tuple(name for i, name in enumerate(names) if i not in absent(number))
        sums = np.sum([courses[name].vector(name, own[name], size) for name in here], axis=0)
        finished = [course.take(sums, here) for course in courses.values()]
        assert len({done is None for done in finished}) == 1
        if finished[0] is not None:
            assert len({repr(bits(done.result)) for done in finished}) == 1
            return finished[0].result, courses[names[0]].members
    raise AssertionError(f"no result after {most} sums")


def lloyd(rows, centers, steps):
    """Step from given centers, equals to the first by coordinates: centers, labels, steps, whether it stood still."""
    for step in range(1, steps + 1):
        order = np.array(sorted(range(len(centers)), key=lambda c: tuple(centers[c])))
        labels = order[np.argmin(((rows[:, None, :] - centers[None, order]) ** 2).sum(axis=2), axis=1)]
        own = [labels == c for c in range(len(centers))]
        after = np.array([rows[mine].mean(axis=0) if mine.any() else c for mine, c in zip(own, centers, strict=True)])
        if np.array_equal(after, centers):
            return after, labels, step, True
        centers = after
    return centers, labels, steps, False
