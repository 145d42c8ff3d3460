"""Clusters and principal components of wines at three cellars, by sums alone.

    python -m examples.tutorials.clusters --out clusters.png

178 wines with 13 measurements each (scikit-learn's bundled data) lie at three cellars, each with its own kind of wine
for the most part. Three analyses run one after another in one federation:

1. **moments**: mean and standard deviation of every measurement, so that all cellars scale alike;
2. **PCA**: the covariance matrix from exact sums, its eigenvectors at every cellar;
3. **k-means**: Lloyd's steps; the seeds come from the moments, not from anybody's wine.

The program compares the components with NumPy's of the pooled table, and the clusters with Lloyd's algorithm run on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk import analytics
from client_sdk.local import local_federation, plan_for
from examples.pictures import BLUE, GREEN, INK, ORANGE, drawn, saved, titled

CELLARS = ("north", "middle", "south")
COLOURS = (BLUE, ORANGE, GREEN)
STEP = 2.0**-10


def run(out: Path, seed: int = 1) -> dict[str, Any]:
    """Deal the wines out, run the three analyses, compare, draw.

    Args:
        out: the picture.
        seed: deals the wines out.
    """
    from sklearn.datasets import load_wine

    wines, kind = load_wine(return_X_y=True)
    columns = wines.shape[1]
    # Each cellar has three in four of its own kind.
    rng = np.random.default_rng(seed)
    where = np.where(rng.random(len(wines)) < 0.75, kind, rng.integers(0, 3, len(wines)))

    moments = analytics.Moments((analytics.Grid(0.01, 0, 2000),) * columns)
    grid = analytics.Grid(STEP, -8, 8)
    pca = analytics.PCA(2, (grid,) * columns)
    kmeans = analytics.KMeans(3, grid, columns, starts=6)

    def cellar(site: Any, i: int) -> tuple[Any, ...]:
        own = wines[where == i]
        scale = analytics.run(site, moments, own)
        scaled = (own - scale.mean) / np.sqrt(scale.variance)
        return scale, analytics.run(site, pca, scaled), analytics.run(site, kmeans, scaled)

    layout = analytics.layout_for(moments, pca, kmeans)
    plan = plan_for(layout, CELLARS, value_bits=analytics.VALUE_BITS, rounds=110)
    with local_federation(plan, CELLARS) as federation:
        results = federation.everywhere(cellar)
        sent = federation.plan.public.wire_bytes

    scale, components, clusters = results[0]
    for _, other, others in results[1:]:
        if not np.array_equal(other.components, components.components) or not np.array_equal(
            others.centers, clusters.centers
        ):
            raise SystemExit("the cellars have different results")
    scaled = np.rint((wines - scale.mean) / np.sqrt(scale.variance) / STEP) * STEP
    _, _, v = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    angle = float(np.abs(np.abs((components.components * v[:2]).sum(axis=1)) - 1).max())
    pooled = analytics.dry_run(kmeans, [(scaled,)])
    same = bool(np.array_equal(pooled.centers, clusters.centers))
    right = agreement(clusters.labels(scaled), kind)
    facts = {
        "components_off_by": angle,
        "kmeans_as_pooled": same,
        "steps": clusters.steps,
        "agreement": right,
        "bytes_per_round": sent,
    }
    print(facts)
    draw(components, clusters, scaled, where, facts, out)
    return facts


def agreement(labels: Any, kind: Any) -> float:
    """Share of wines whose cluster is that of the majority of their kind."""
    return float(sum(np.bincount(kind[labels == label]).max() for label in set(labels.tolist())) / len(kind))


def draw(components: Any, clusters: Any, scaled: Any, where: Any, facts: dict[str, Any], out: Path) -> None:
    """The wines along the first two components, coloured by cellar and by cluster."""
    scores, centers = components.scores(scaled), components.scores(clusters.centers)
    labels = clusters.labels(scaled)
    figure, (left, right) = drawn(2, sharex=True, sharey=True)
    for i, colour in enumerate(COLOURS):
        left.plot(*scores[where == i].T, "o", color=colour, markersize=4.5, alpha=0.75, label=CELLARS[i])
        # A cluster gets the colour of the cellar that most of it comes from.
        most = max(range(3), key=lambda label: int((where[labels == label] == i).sum()))
        right.plot(*scores[labels == most].T, "o", color=colour, markersize=4.5, alpha=0.75)
    right.plot(*centers.T, "X", color="black", markersize=11, markeredgecolor="white")
    left.legend(frameon=False, loc="lower left")
    for axes in (left, right):
        axes.set_xlabel(f"first component ({components.explained[0]:.0%} of the variance)")
    left.set_ylabel(f"second component ({components.explained[1]:.0%})", color=INK)
    titled(left, "Who holds which wine", "each cellar sees only its own colour")
    titled(
        right,
        "What they find together",
        f"k-means, {facts['steps']} steps, equal to the pooled result; {facts['agreement']:.0%} agree with the grape",
    )
    saved(figure, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("clusters.png"))
    run(parser.parse_args().out)
