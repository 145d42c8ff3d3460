"""Find the model that a job has made, wherever it is, and score it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.frameworks.task import Patients, Weights, initial, risk
from examples.demo.model import auc

__all__ = ["kept_models", "opened", "score"]


def kept_models(folders: Iterable[Path]) -> list[Weights]:
    """Return what each site has kept beside its keystore: the model of its newest run.

    Args:
        folders: where the sites' keystores are.
    """
    found = [
        max(folder.glob("keystore.runs/*/*/model.npz"), key=lambda path: path.stat().st_mtime) for folder in folders
    ]
    models = []
    for path in found:
        with np.load(path) as file:
            models.append({name: file[name] for name in initial(1, 0)})
    return models


def opened(path: Path, width: int, context: Path | None = None) -> Weights:
    """Read the model that a server has saved.

    Args:
        context: a site's file of TenSEAL, if the server has ciphertexts.
    """
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    like = initial(width, 0)
    if any(array.dtype == np.uint8 for array in arrays.values()):
        import tenseal

        secret = tenseal.context_from(context.read_bytes())  # type: ignore[union-attr]
        arrays = {name: np.array(tenseal.ckks_vector_from(secret, a.tobytes()).decrypt()) for name, a in arrays.items()}
    return {name: arrays[name].reshape(array.shape).astype(np.float32) for name, array in like.items()}


def score(model: Weights, floating: Weights, test: Patients) -> dict[str, float]:
    """Return the AUC over patients that nobody trained on, and how far any one's risk is from the averaged floats'.

    Args:
        floating: the model of FedAvg in double precision.
    """
    features, died = test
    found, expected = risk(model, features), risk(floating, features)
    return {"auc": round(auc(died, found), 5), "furthest_risk": float(np.abs(found - expected).max())}
