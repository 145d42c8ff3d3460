"""What the aggregator sees: patients, if updates come in the clear; noise, if they come encrypted.

    python -m examples.tutorials.aggregator_sees --out aggregator-sees.png

A hospital sends the gradient of a small network's loss on a batch of eight images (scikit-learn's 8 x 8 digits, in
place of patients' scans). Whoever reads that gradient *has the images*: a ReLU neuron that fires for a single image has
a weight gradient proportional to that image, and the neuron's bias gradient is the factor. Dividing the one by the
other gives the image back, to the accuracy of the numbers. No optimisation, no luck.

Then the same gradient goes through the encrypted round, and the attacker is the aggregator itself: all bytes that it
stored for this hospital, read as integers and put through the same attack.
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.local import local_federation, plan_for
from examples.pictures import BLUE, FAINT, ORANGE, drawn, saved, titled
from he_agg import quantize

IMAGES, HIDDEN = 8, 400
FOUND = 0.99
"""Correlation with a true image from which on it counts as recovered."""

Gradient = dict[str, NDArray[np.float32]]


def gradient(images: Any, labels: Any, others: Any, seed: int = 0) -> Gradient:
    """Gradient of the loss of a 64-400-10 ReLU network on a batch: what a hospital sends in federated SGD."""
    rng = np.random.default_rng(seed)
    w1, w2 = rng.normal(0, 0.2, (HIDDEN, 64)), rng.normal(0, 0.2, (10, HIDDEN))
    # Biases with which a neuron fires for one in ten of *other* images: sparse, as in a trained network. In one whose
    # neurons fire for half of all images, single images are rarer, and attackers optimise instead of dividing.
    b1 = -np.quantile(others @ w1.T, 0.9, axis=0)
    before = images @ w1.T + b1
    logits = np.maximum(before, 0) @ w2.T
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    d = (p - np.eye(10)[labels]) / len(images)
    back = (d @ w2) * (before > 0)
    return {"w1": (back.T @ images).astype(np.float32), "b1": back.sum(axis=0).astype(np.float32)}


def attack(w1: Any, b1: Any) -> NDArray[np.float64]:
    """One candidate image per neuron: weight gradient over bias gradient."""
    b1 = np.asarray(b1, dtype=np.float64)
    live = np.abs(b1) > 1e-4 * np.abs(b1).max()
    return np.asarray(w1, dtype=np.float64)[live] / b1[live, None]


def best_matches(candidates: Any, images: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each true image, the candidate that looks most like it, and their correlation."""

    def unit(rows: Any) -> Any:
        centred = rows - rows.mean(axis=1, keepdims=True)
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    correlation = unit(np.asarray(images, dtype=np.float64)) @ unit(candidates).T
    best = correlation.argmax(axis=1)
    return candidates[best], correlation.max(axis=1)


def stored_by_aggregator(federation: Any) -> bytes:
    """Every byte of the parts of its only submission on the aggregator's disk, in their order."""
    parts = sorted(federation.aggregator.data_dir.rglob("submissions/*/*.part"), key=lambda path: int(path.stem))
    return b"".join(path.read_bytes() for path in parts)


def as_gradient(data: bytes, sizes: tuple[int, int]) -> tuple[Any, Any]:
    """The attacker's reading of bytes: 16-bit numbers, weights first, then biases."""
    numbers = np.frombuffer(data[: 2 * sum(sizes)], dtype="<i2").astype(np.float64)
    return numbers[: sizes[0]].reshape(HIDDEN, 64), numbers[sizes[0] : sum(sizes)]


def byte_facts(data: bytes) -> dict[str, float]:
    """Shannon entropy in bits a byte, and what zlib makes of it."""
    p = np.bincount(np.frombuffer(data, np.uint8), minlength=256) / len(data)
    return {"entropy": float(-(p[p > 0] * np.log2(p[p > 0])).sum()), "zlib": len(zlib.compress(data, 9)) / len(data)}


def run(out: Path) -> dict[str, Any]:
    """Compute a gradient, attack it in the clear and encrypted, draw both.

    Args:
        out: the picture.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, others = digits.data[:IMAGES] / 16, digits.data[500:] / 16
    updates = [
        gradient(digits.data[first : first + IMAGES] / 16, digits.target[first : first + IMAGES], others)
        for first in (0, 100)
    ]
    plain = best_matches(attack(updates[0]["w1"], updates[0]["b1"]), images)

    clip = float(max(np.abs(value).max() for update in updates for value in update.values())) * 1.01
    plan = plan_for(updates[0], 2, clip=clip, weight_cap=1, rounds=1)
    with local_federation(plan, 2) as federation:
        # One after the other: once the sum exists the aggregator deletes what it was made of.
        first, second = (next(site.rounds()) for site in federation.sites)
        first.submit(updates[0], weight=1)
        cipher = stored_by_aggregator(federation)
        second.submit(updates[1], weight=1)
        mean = first.fetch()
        quantized = quantize(federation.plan, updates[0], 1).values

    sizes = (updates[0]["w1"].size, updates[0]["b1"].size)
    header = 64  # of the first part: not even encrypted, and not even in the attacker's way
    encrypted = best_matches(attack(*as_gradient(cipher[header:], sizes)), images)
    # What chance gives: the same attack on bytes of the operating system's generator.
    rng = np.random.default_rng(0)
    chance = best_matches(attack(*as_gradient(rng.bytes(len(cipher)), sizes)), images)
    grid = best_matches(attack(quantized[: sizes[0]].reshape(HIDDEN, 64), quantized[sizes[0] : sum(sizes)]), images)
    facts = {
        "images": IMAGES,
        "recovered_from_plaintext": int((plain[1] >= FOUND).sum()),
        "recovered_from_16_bit_plaintext": int((grid[1] >= FOUND).sum()),
        "recovered_from_ciphertext": int((encrypted[1] >= FOUND).sum()),
        "correlation_plaintext": float(plain[1].mean()),
        "correlation_ciphertext": float(encrypted[1].mean()),
        "correlation_random_bytes": float(chance[1].mean()),
        "ciphertext": byte_facts(cipher),
        "plaintext": byte_facts(quantized.astype("<i2").tobytes()),
        "ciphertext_bytes": len(cipher),
        "mean_opened": bool(np.isfinite(mean.tensors["w1"]).all()),
    }
    for name, value in facts.items():
        print(f"{name}: {value}")
    draw(images, plain[0], encrypted[0], (plain[1], encrypted[1], chance[1]), facts, out)
    return facts


def draw(images: Any, plain: Any, encrypted: Any, correlations: Any, facts: dict[str, Any], out: Path) -> None:
    """Three rows of images, and how alike they are."""
    figure, (left, right) = drawn(2, height=3.7, width_ratios=[1.9, 1])
    gap = np.full((8, 1), np.nan)
    rows = []
    for row in (images, plain, encrypted):
        scaled = [(image - image.min()) / (np.ptp(image) or 1) for image in row]
        rows.append(np.hstack([tile for image in scaled for tile in (image.reshape(8, 8), gap)]))
        rows.append(np.full((2, rows[0].shape[1]), np.nan))
    left.imshow(np.vstack(rows[:-1]), cmap="gray_r", interpolation="nearest")
    names = ["the hospital's\nimages", "from the update\nin the clear", "from the\nciphertext"]
    left.set_yticks([3.5, 13.5, 23.5], names)
    left.set_xticks([])
    for side in ("left", "bottom"):
        left.spines[side].set_visible(False)
    left.tick_params(length=0)
    titled(
        left,
        "The same update, read by the aggregator",
        f"{facts['recovered_from_plaintext']} of {facts['images']} images recovered in the clear, "
        f"{facts['recovered_from_ciphertext']} from the ciphertext",
    )
    at = np.arange(facts["images"])
    read_from = (("in the clear", ORANGE), ("ciphertext", BLUE), ("random bytes", FAINT))
    for values, (name, colour), shift in zip(correlations, read_from, (-0.28, 0.0, 0.28), strict=True):
        right.bar(at + shift, values, width=0.27, color=colour, label=name)
    right.set_xticks(at, [str(i + 1) for i in at])
    right.set_xlabel("image")
    right.set_ylim(0, 1)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=1.2, handlelength=1.2)
    titled(right, "How alike", "best correlation of any candidate with each image")
    saved(figure, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("aggregator-sees.png"))
    run(parser.parse_args().out)
