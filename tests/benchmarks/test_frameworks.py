"""The training that NVFlare's and Flower's jobs have in common, and the tables that pages show of it."""

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.frameworks import clear
from benchmarks.frameworks.scoring import score
from benchmarks.frameworks.table import PAGES, RESULT, table
from benchmarks.frameworks.task import SITES, initial, patients_of, share_out, train

WIDTH = 16


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patients")
    return folder, share_out(folder)


def test_slopes_are_those_of_the_loss(shared):
    """One step's change of the loss, against differences in double precision."""
    from benchmarks.frameworks.task import _layers, _slopes

    folder, _ = shared
    wide: Any = [array[:50].astype(np.float64) for array in patients_of(folder, SITES[0])]
    features, died = wide
    model = {name: array.astype(np.float64) for name, array in initial(WIDTH, 3).items()}

    def loss():
        logits = _layers(model, features)[3][:, 0]
        return np.mean(np.logaddexp(0, logits) - died * logits)

    slopes = _slopes(model, features, died)
    for name, array in model.items():
        place = np.unravel_index(np.argmax(np.abs(slopes[name])), array.shape)
        middle, step = array[place], 1e-6
        array[place] = middle + step
        above = loss()
        array[place] = middle - step
        below = loss()
        array[place] = middle
        assert slopes[name][place] == pytest.approx((above - below) / (2 * step), rel=1e-3)


def test_it_learns_and_the_grid_follows_floats_within_what_the_plan_promises(shared):
    folder, test = shared
    plan = clear.plan_of("test", WIDTH)
    floating, grid = clear.floating(folder, WIDTH, 3, 0), clear.fixed_point(plan, folder, WIDTH, 3, 0)
    assert score(floating[3], floating[3], test)["auc"] > 0.7 > 0.6 > score(floating[0], floating[0], test)["auc"]
    # Half a step of each site's grid at most, over the weights of all sites, and the float's own rounding.
    steps = len(SITES) * 0.5 / sum(len(patients_of(folder, site)[1]) for site in SITES)
    bound = steps * clear.CLIP * clear.WEIGHT_CAP / (2**15 - 1)
    for name, array in floating[1].items():
        assert np.abs(array - grid[1][name]).max() <= bound + 2**-22
    assert score(grid[3], floating[3], test)["furthest_risk"] < 1e-3


def test_training_follows_from_site_round_and_weights_alone(shared):
    folder, _ = shared
    start, patients = initial(WIDTH, 0), patients_of(folder, SITES[1])
    once, again = (train(start, patients, SITES[1], 2)[0] for _ in range(2))
    other = train(start, patients, SITES[1], 3)[0]
    assert all(once[name].tobytes() == again[name].tobytes() for name in start)
    assert any(once[name].tobytes() != other[name].tobytes() for name in start)


@pytest.mark.parametrize("framework", PAGES)
def test_pages_show_the_kept_result(framework):
    run = json.loads(RESULT.read_text())[framework]
    assert table(run) in PAGES[framework].read_text()
    ours = [row for row in run["rows"] if row["scheme"] == "he-agg"]
    assert ours
    assert all(row["exact"] for row in ours)
