"""One hospital that differs from all others, and what clipping and noise do about it.

    python -m examples.tutorials.outlier --out outlier.png

Five hospitals learn one map: two laboratory values in, the probability of a disease out. Four agree; the fifth codes
its outcomes the other way round and has ten times the influence, since its updates are ten times as long. Four
federations, each on a real aggregator:

1. as it comes;
2. every update clipped to the same norm (`privacy.clip_update`): no hospital counts for more than the others;
3. and 4. clipped, with Skellam noise and a budget (`privacy.PrivateUpdates`), for two noise multipliers.

The knob has a price, printed as epsilon. A map of 26 numbers stands the noise of epsilon 20, which promises little; at
epsilon 4 nothing is left of it. Noise is drawn anew in every run, so the last two maps differ from run to run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk import privacy
from client_sdk.local import local_federation, plan_for
from examples.pictures import BLUE, INK, ORANGE, drawn, saved, titled

HOSPITALS, ROUNDS, CENTERS = 5, 10, 5
CLIP, DELTA = 1.0, 1e-5
KNOB = ("as it comes", "clipped", 1.0, 4.0)


def patients(hospital: int) -> tuple[Any, Any]:
    """Two values and an outcome. The last hospital's outcomes are the wrong way round."""
    rng = np.random.default_rng([11, hospital])
    x = rng.uniform(-1, 1, (150, 2))
    y = truth(x) ^ (rng.random(150) < 0.05)
    return x, (~y if hospital == HOSPITALS - 1 else y).astype(float)


def truth(x: Any) -> NDArray[np.bool_]:
    """Ill inside a ring."""
    return np.asarray(np.hypot(x[:, 0] - 0.1, x[:, 1] + 0.1) < 0.6)


def features(x: Any) -> Any:
    """Radial functions on a grid, and a constant."""
    centers = np.stack(np.meshgrid(*2 * [np.linspace(-1, 1, CENTERS)]), axis=-1).reshape(-1, 2)
    bumps = np.exp(-((x[:, None, :] - centers) ** 2).sum(axis=2) / (2 * 0.3**2))
    return np.column_stack([bumps, np.ones(len(x))])


def step(weights: Any, x: Any, y: Any, length: float) -> dict[str, Any]:
    """A hospital's local training: some steps down the gradient; returns the difference."""
    phi, w = features(x), weights.copy()
    for _ in range(30):
        w += 2.0 * phi.T @ (y - 1 / (1 + np.exp(-phi @ w))) / len(y)
    return {"w": length * (w - weights)}


def train(setting: str | float, directory: Path) -> tuple[Any, float]:
    """One federation from start to end.

    Args:
        setting: of the knob: "as it comes", "clipped", or a noise multiplier.
        directory: for ledgers.

    Returns:
        The weights, the same at every hospital, and epsilon, infinite without noise.
    """
    values = CENTERS**2 + 1
    z = setting if isinstance(setting, float) else 0.0
    clip = privacy.noisy_clip(CLIP, z, HOSPITALS, values=values, value_bits=16) if z else 100.0
    plan = plan_for({"w": np.zeros(values)}, HOSPITALS, clip=clip, weight_cap=1, rounds=ROUNDS)
    with local_federation(plan, HOSPITALS) as federation:

        def hospital(site: Any, i: int) -> tuple[Any, float]:
            x, y = patients(i)
            weights = np.zeros(values)
            private = None
            if z:
                mechanism = privacy.Mechanism.for_plan(site.plan, clip_norm=CLIP, noise_multiplier=z)
                ledger = privacy.Ledger(directory / f"{z}-{i}.budget", epsilon=1e6, delta=DELTA)
                private = privacy.PrivateUpdates(site, mechanism, ledger, directory / f"{z}-{i}")
            for round in site.rounds():
                update = step(weights, x, y, 10.0 if i == HOSPITALS - 1 else 1.0)
                if private is not None:
                    mean = private.aggregate(round, update)
                elif setting == "clipped":
                    mean = round.aggregate(privacy.clip_update(update, CLIP)[0], weight=1)
                else:
                    mean = round.aggregate(update, weight=1, on_overflow="clip")
                weights = weights + mean.tensors["w"]
            return weights, private.ledger.spent if private else np.inf

        results = federation.everywhere(hospital)
    if any(not np.array_equal(results[0][0], other) for other, _ in results):
        raise SystemExit("the hospitals have different models")
    return results[0]


def run(out: Path, knob: tuple[str | float, ...] = KNOB) -> dict[str | float, dict[str, float]]:
    """Train with every setting, test on the truth, draw.

    Args:
        out: the picture.
        knob: settings to try.
    """
    side = np.linspace(-1, 1, 80)
    x = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    facts, maps = {}, []
    with tempfile.TemporaryDirectory() as directory:
        for setting in knob:
            weights, epsilon = train(setting, Path(directory))
            p = 1 / (1 + np.exp(-features(x) @ weights))
            facts[setting] = {"right": float(((p > 0.5) == truth(x)).mean()), "epsilon": float(epsilon)}
            maps.append(p.reshape(80, 80))
            print(setting, facts[setting])
    draw(knob, maps, facts, out)
    return facts


def draw(knob: Any, maps: Any, facts: Any, out: Path) -> None:
    """A heat map per setting, with the true border."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.lines import Line2D

    colours = LinearSegmentedColormap.from_list("risk", [BLUE, "white", ORANGE])
    figure, panels = drawn(len(knob), width=3.1 * len(knob) + 0.9, height=4.1)
    image = None
    angle = np.linspace(0, 2 * np.pi, 200)
    for axes, setting, values in zip(panels, knob, maps, strict=True):
        image = axes.imshow(values, origin="lower", extent=(-1, 1, -1, 1), cmap=colours, vmin=0, vmax=1)
        circle = 0.1 + 0.6 * np.cos(angle), -0.1 + 0.6 * np.sin(angle)
        axes.plot(*circle, color="black", linewidth=1.2, linestyle="--")
        axes.set_xticks([])
        axes.set_yticks([])
        fact = facts[setting]
        title = setting if isinstance(setting, str) else f"noise z = {setting:g}"
        epsilon = f", epsilon {fact['epsilon']:,.0f}" if np.isfinite(fact["epsilon"]) else ", no guarantee"
        titled(axes, title.capitalize(), f"{fact['right']:.0%} right{epsilon}")
    figure.colorbar(image, ax=panels, shrink=0.72, label="risk that the model predicts", ticks=[0, 0.5, 1])
    figure.legend([Line2D([], [], color=INK, linestyle="--")], ["true border"], loc="outside lower left")
    saved(figure, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("outlier.png"))
    run(parser.parse_args().out)
