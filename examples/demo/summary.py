"""What a demonstration found, in one dictionary, and the folder it is written to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PHASES = ("train", "encrypt", "upload", "wait", "fold", "download", "decrypt")
VERIFIED = ("records", "manifests", "sums")
"""What every hospital verified, each time before it decrypted anything."""


class Score(TypedDict):
    """Final scores on the common test set. Units: area under the ROC curve."""

    local: dict[str, float]
    plaintext: float
    encrypted: float


class ScorePerRound(TypedDict):
    """The scores after each round, first round first."""

    encrypted: list[float]
    plaintext: list[float]


class Summary(TypedDict):
    """One demonstration.

    `seconds`: keys of `PHASES`, over all rounds; `fold` is the aggregator's, every other phase the mean over the
    hospitals. `wait` is what a hospital spent on others: it contains `fold`. `encrypted_vs_float_max_abs_diff`: largest
    entry, over all rounds, of the decrypted mean minus the float64 mean of the same updates; `encrypted_vs_float_bound`
    is what rounding to the grid permits. `read_together`: how many values of one hospital's update the aggregator and
    another hospital read together, under shared keys and under split ones, where that was tried. `verified`: how many
    signed records, signed manifests and tagged sums the hospitals verified, in all.
    """

    codec: str
    dataset: str
    sites: int
    rounds: int
    values: int
    encrypted_vs_fixed_point_max_abs_diff: float
    encrypted_vs_float_max_abs_diff: float
    encrypted_vs_float_bound: NotRequired[float]
    bytes_per_value_up: float
    bytes_per_value_down: float
    seconds: dict[str, float]
    score: Score
    score_per_round: ScorePerRound
    keys: NotRequired[str]
    read_together: NotRequired[dict[str, str]]
    verified: NotRequired[dict[str, int]]
    weights: NotRequired[dict[str, int]]
    versions: NotRequired[dict[str, str]]


def write_summary(summary: Mapping[str, object], folder: Path) -> Path:
    """Write `summary.json`; the folder is made if it is not there.

    Args:
        summary: see `Summary`.
        folder: for example `demo-report`.

    Returns:
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "summary.json"
    path.write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return path
