"""The code on docs/training.md runs as it stands."""

import re
from pathlib import Path

import numpy as np
import pytest

from client_sdk.training import BinaryScores, simulate, train, training_plan
from tests.support.regression import data

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
BLOCKS = dict(re.findall(r"^### (.+?)\n\n```python\n(.*?)```", PAGE, flags=re.M | re.S))


@pytest.mark.parametrize("framework", ["PyTorch", "scikit-learn", "NumPy and JAX"])
def test_ten_lines_of_each_framework_train_a_model(framework):
    if framework == "PyTorch":
        pytest.importorskip("torch")
    sites = []
    for i in range(3):
        x, y = data(i)
        names = {"x": x, "y": y}
        exec(compile(BLOCKS[framework], f"docs/training.md, {framework}", "exec"), names)
        sites.append(names)
    first = sites[0]
    evaluation = BinaryScores()
    plan = training_plan("x", first["model"], clip=0.5, weight_cap=256, max_sites=3, adapter=first["adapter"],
                         evaluation=evaluation)  # fmt: skip

    def work(site, i):
        mine = sites[i]
        return train(site, mine["model"], mine["fit"], adapter=mine["adapter"], rounds=15, evaluation=evaluation,
                     evaluate=lambda model: (mine["y"], np.asarray(mine["predict"](model, mine["x"]))))  # fmt: skip

    results = simulate(plan, ["a", "b", "c"], work)
    losses = [entry["metrics"]["loss"] for entry in results[0].history]
    assert losses[-1] < 0.9 * losses[0]
    assert len({result.model_hash for result in results}) == 1
