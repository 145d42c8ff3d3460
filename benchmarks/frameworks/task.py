"""What every job trains: who dies within ten years of a blood sample, learned by a network at three hospitals.

Patients and hospitals are those of the demo (`examples.demo.data`). Training is plain NumPy and follows from the
weights that come, the site and the round alone, so that a checker can repeat it: in the environments of the frameworks
it needs nothing else. `width` is that of the two hidden layers; 512 makes 267 777 values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLIP", "SITES", "WEIGHT_CAP", "initial", "patients_of", "risk", "share_out", "train"]

SITES = ("site-1", "site-2", "site-3")

CLIP, WEIGHT_CAP = 0.5, 2000
"""No weight moves further in one round, and no hospital has more patients to learn from."""

Weights = dict[str, NDArray[Any]]
Patients = tuple[NDArray[np.float32], NDArray[np.float32]]

_FEATURES = 8
_BATCH = 64
_RATE, _MOMENTUM = np.float32(0.02), np.float32(0.9)


def share_out(folder: Path) -> Patients:
    """Write what each site holds to a folder, and return the patients that no site trains on."""
    from examples.demo.data import load_shares

    shares = load_shares()[: len(SITES)]
    folder.mkdir(parents=True, exist_ok=True)
    for site, share in zip(SITES, shares, strict=True):
        np.savez(folder / f"{site}.npz", features=share.train.features, died=share.train.died)
    return shares[0].test.features, shares[0].test.died


def patients_of(folder: Path, site: str) -> Patients:
    """Read what a site holds."""
    with np.load(folder / f"{site}.npz") as file:
        return file["features"], file["died"]


def initial(width: int, seed: int) -> Weights:
    """Return the weights that all sites start from."""
    rng = np.random.default_rng(seed)
    weights: Weights = {}
    for place, (rows, columns) in enumerate(((_FEATURES, width), (width, width), (width, 1))):
        weights[f"layer{place}.w"] = (rng.standard_normal((rows, columns)) * np.sqrt(2 / rows)).astype(np.float32)
        weights[f"layer{place}.b"] = np.zeros(columns, np.float32)
    return weights


def train(weights: Weights, patients: Patients, site: str, number: int) -> tuple[Weights, int]:
    """Train one epoch, and return the weights after it and the number of patients.

    Args:
        number: of the round; the first is 0.
    """
    model: Weights = {name: np.array(array, np.float32) for name, array in weights.items()}
    moved: Weights = {name: np.zeros_like(array) for name, array in model.items()}
    features, died = patients
    rng = np.random.default_rng([SITES.index(site), number])
    order = rng.permutation(len(died))
    for rows in np.array_split(order, -(-len(order) // _BATCH)):
        for name, slope in _slopes(model, features[rows], died[rows]).items():
            moved[name] = _MOMENTUM * moved[name] - _RATE * slope
            model[name] += moved[name]
    return model, len(died)


def _layers(model: Weights, features: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return what goes into each layer, and the risk that comes out of the last, as a logit."""
    inputs = [features]
    for place in range(3):
        out = inputs[-1] @ model[f"layer{place}.w"] + model[f"layer{place}.b"]
        inputs.append(np.maximum(out, 0) if place < 2 else out)
    return inputs


def _slopes(model: Weights, features: NDArray[np.float32], died: NDArray[np.float32]) -> Weights:
    inputs = _layers(model, features)
    slope = (_probability(inputs[3]) - died[:, None]) / np.float32(len(died))
    slopes: Weights = {}
    for place in (2, 1, 0):
        slopes[f"layer{place}.w"] = inputs[place].T @ slope
        slopes[f"layer{place}.b"] = slope.sum(axis=0)
        slope = (slope @ model[f"layer{place}.w"].T) * (inputs[place] > 0)
    return slopes


def _probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def risk(model: Weights, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each patient's probability of death."""
    return _probability(_layers(model, features)[3])[:, 0]
