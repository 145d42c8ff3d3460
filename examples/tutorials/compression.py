"""What compression before encryption saves, and what it does to the score.

    python -m examples.tutorials.compression --out compression.png

The same five hospitals and number of training steps for every row; bytes are those of a whole submission, its one-time
key included, times the rounds that were needed. The runs are simulated: the same bits as encrypted ones, without the
waiting (`tests/compression` checks that).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client_sdk.adapters import TorchAdapter
from client_sdk.compression import Compression, FewBits, LowRank, RandomMask
from client_sdk.training import simulate, train, training_plan
from examples.demo.model import auc
from examples.pictures import BLUE, ORANGE, SKY, drawn, saved, titled
from examples.tutorials.fedavg_torch import LR, epochs, predict
from examples.tutorials.hospitals import Hospital, load_hospitals
from he_agg import ResolutionWarning

RECIPES: list[tuple[str, int, Compression]] = [
    ("none, 16 bits", 16, Compression()),
    ("none, 4 bits (to nearest)", 4, Compression()),
    ("few bits: 12", 12, FewBits()),
    ("few bits: 8", 8, FewBits()),
    ("few bits: 4", 4, FewBits()),
    ("few bits: 4, no error feedback", 4, FewBits(error_feedback=False)),
    ("mask 1/4, 16 bits", 16, RandomMask(0.25)),
    ("mask 1/10, 16 bits", 16, RandomMask(0.1)),
    ("mask 1/10, no error feedback", 16, RandomMask(0.1, error_feedback=False)),
    ("mask 1/10, 8 bits", 8, RandomMask(0.1)),
    ("low rank 4, 16 bits", 16, LowRank(4)),
    ("low rank 1, 16 bits", 16, LowRank(1)),
]


def network(seed: int) -> torch.nn.Module:
    """35,457 numbers, so that matrices have ranks to lose."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(8, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU(),
            torch.nn.Linear(128, 1),
        )  # fmt: skip


def one(hospitals: list[Hospital], bits: int, compression: Compression, steps: int, seed: int) -> tuple[int, float]:
    """Bytes up per site for the whole training, and the final AUC of all test patients."""
    rounds = steps * compression.phases
    cap = max(len(hospital.train[1]) for hospital in hospitals)
    plan = training_plan(
        "compression", network(0), clip=2.0, weight_cap=cap, max_sites=len(hospitals), value_bits=bits, rounds=rounds,
        compression=compression,
    )  # fmt: skip

    models = [network(seed) for _ in hospitals]  # PyTorch's seed belongs to the process, so not in the sites' threads

    def work(site: Any, i: int) -> Any:
        def fit(model: torch.nn.Module, task: Any) -> int:
            return epochs(model, hospitals[i].train, task.seed + seed, lr=LR * 0.85 ** (task.step - 1))

        return train(site, models[i], fit, compression=compression, rounds=rounds, on_overflow="clip")

    results = simulate(plan, [hospital.name for hospital in hospitals], work)
    model = TorchAdapter().load(network(0), results[0].tensors)
    features, died = (np.concatenate(c) for c in zip(*(hospital.test for hospital in hospitals), strict=True))
    return rounds * plan.public.wire_bytes, auc(died, predict(model, features))


def run(steps: int = 15, seeds: int = 3, limit: int | None = None) -> list[dict[str, Any]]:
    """Every recipe with every seed."""
    torch.set_num_threads(1)
    hospitals = load_hospitals(limit=limit)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResolutionWarning)  # few bits are what is looked at
        for label, bits, compression in RECIPES:
            found = [one(hospitals, bits, compression, steps, seed) for seed in range(seeds)]
            scores = [score for _, score in found]
            rows.append({"recipe": label, "bytes": found[0][0], "scores": scores})
            print(row_of(rows[-1], rows[0]), flush=True)
    return rows


def row_of(row: dict[str, Any], first: dict[str, Any]) -> str:
    """A line of the table in docs/training.md."""
    loss = np.mean(row["scores"]) - np.mean(first["scores"])
    return (
        f"| {row['recipe']} | {row['bytes'] / 1e6:.2f} MB | {first['bytes'] / row['bytes']:.1f} x | "
        f"{np.mean(row['scores']):.4f} | {loss:+.4f} | {min(row['scores']):.4f} to {max(row['scores']):.4f} |"
    )


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Bytes against score, one point per seed."""
    height = 0.42 * len(rows) + 1.6
    figure, (left, right) = drawn(2, width=12, height=height, sharey=True, width_ratios=[1, 1.2])
    places = np.arange(len(rows))[::-1]
    left.barh(places, [row["bytes"] / 1e6 for row in rows], color=BLUE, height=0.6)
    for place, row in zip(places, rows, strict=True):
        left.text(row["bytes"] / 1e6, place, f" {rows[0]['bytes'] / row['bytes']:.1f} ×", va="center", fontsize=9)
    left.set_yticks(places, [row["recipe"] for row in rows])
    left.set_xlim(0, 1.18 * max(row["bytes"] for row in rows) / 1e6)
    left.set_xlabel("MB")
    titled(left, "Bytes", "up per hospital, whole training; × how much less")
    reference = rows[0]["scores"]
    right.axvspan(min(reference), max(reference), color=SKY, alpha=0.3, linewidth=0, label="uncompressed, range")
    low, high = min(reference) - 0.02, max(max(row["scores"]) for row in rows) + 0.002
    right.set_xlim(low, high)
    for place, row in zip(places, rows, strict=True):
        right.plot(row["scores"], [place] * len(row["scores"]), "o", color=ORANGE, markersize=6, alpha=0.7)
        if (worst := min(row["scores"])) < low:
            right.text(low, place, f" ← down to {worst:.2f}", va="center", fontsize=9, color=ORANGE)
    right.set_xlabel("AUC")
    right.legend(loc="lower left")
    titled(right, "Score", "all test patients, one point per seed")
    saved(figure, out)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run, print the table, draw."""
    parser = argparse.ArgumentParser(description="Bytes and score of every compression.")
    parser.add_argument("--out", type=Path, default=Path("compression.png"))
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args(arguments)
    rows = run(options.steps, options.seeds, options.limit)
    draw(rows, options.out)
    return rows


if __name__ == "__main__":
    main()
