"""A round with differential privacy: clip, round, add noise, pay, send. Repeating it sends the same bytes for free."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.federated import Federated, FederatedRound
from client_sdk.privacy.clipping import clip_update
from client_sdk.privacy.ledger import Ledger
from client_sdk.privacy.mechanism import Mechanism
from client_sdk.privacy.sampling import Source
from he_agg.errors import ConfigError, DecryptionError, PlanError, Reason
from he_agg.host.files import replace
from he_agg.plan.fixedpoint import Mean, quantize
from he_agg.plan.plan import Plan

__all__ = ["PrivateUpdates"]


class PrivateUpdates:
    """Sends a site's updates with noise, against a budget.

    ::

        mechanism = Mechanism.for_plan(site.plan, clip_norm=1.0, noise_multiplier=4.0, colluders=1)
        ledger = Ledger("cohort.budget", epsilon=10, delta=1e-5)
        private = PrivateUpdates(site, mechanism, ledger, "private-updates")
        for round in site.rounds():
            mean = private.aggregate(round, train(model))

    The noisy integers are stored before they are paid for, and what is stored for a round is what is sent for it, in
    every attempt: fresh noise for the same update would average out.

    Args:
        site: whose plan the mechanism was made for.
        directory: for the noisy updates of rounds under way; made, mode 0700, if it does not exist.
        source: of random bytes; anything but `os.urandom` is for tests.

    Raises:
        PlanError: the mechanism was made for another plan.
    """

    def __init__(
        self, site: Federated, mechanism: Mechanism, ledger: Ledger, directory: str | Path, source: Source = os.urandom
    ) -> None:
        self._site = site
        self.mechanism = mechanism
        self.ledger = ledger
        self._directory = Path(directory)
        self._source = source
        plan = site.plan
        steps = tuple(spec.clip / plan.public.magnitude for spec in plan.layout.tensors)
        sizes = tuple(spec.size for spec in plan.layout.tensors)
        honest = mechanism.honest_sites <= plan.public.min_sites and plan.layout.weight_cap == 1
        if (steps, sizes) != (mechanism.steps, mechanism.sizes) or not honest:
            raise PlanError(
                Reason.PLAN_MISMATCH,
                "expected a mechanism made for this site's plan, got one for another",
                "make it with Mechanism.for_plan(site.plan, ...)",
            )

    def aggregate(self, round: FederatedRound, update: Mapping[str, Any]) -> Mean:
        """Clip, add noise, charge the budget, and take part in the round.

        Args:
            round: an open round of the site.
            update: named arrays, exactly the plan's tensors. If this round was begun before, what was stored then is
                sent instead.

        Raises:
            InputError: tensors that are not the plan's, or not finite.
            BudgetSpentError: the budget does not cover the round; nothing was sent.
            ConfigError: ledger or directory cannot be written; nothing was sent.
            DecryptionError: fewer sites in the sum than the noise was sized for.
            HeAggError: as for `Round.aggregate`.
        """
        prepared = self.prepare(round, update)
        mean = round.aggregate(prepared, weight=1)
        if mean.n_sites < self._site.plan.public.min_sites:
            raise DecryptionError(
                Reason.SUM_OUT_OF_RANGE, f"round {round.id}: expected min_sites sites in the sum, got fewer"
            )
        self._remove_before(round)
        return mean

    def prepare(self, round: FederatedRound, update: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return the clipped, noisy update for `round.aggregate(..., weight=1)`, already paid for.

        Args:
            round: an open round of the site.
        """
        plan = self._site.plan
        plan.check_model(update)
        what = f"{round.federation}.{round.number}"
        # A federation founded anew under the same name has other grids: its rounds are other rounds.
        path = self._directory / f"{what}.{plan.plan_id[:16]}.noisy"
        try:
            numbers = self._stored(path)
            if numbers is None:
                self.ledger.require(what, self.mechanism.rdp())
                numbers = self._noisy(plan, update)
                self._store(path, numbers)
        except OSError as error:
            raise ConfigError(
                Reason.BAD_CONFIG, f"{self._directory}: {error.strerror}; nothing was charged or sent"
            ) from error
        tensors = self._tensors(plan, numbers)
        digest = hashlib.sha256(f"{plan.plan_id}\n".encode() + numbers.tobytes()).hexdigest()
        self.ledger.charge(what, digest, self.mechanism.rdp())
        return tensors

    def _noisy(self, plan: Plan, update: Mapping[str, Any]) -> NDArray[np.int32]:
        """Clip, put on the grid and add noise. Shape: (layout.size,)."""
        clipped, _ = clip_update(update, self.mechanism.clip_norm)
        magnitude = plan.public.magnitude
        parts = []
        for i, (spec, step) in enumerate(zip(plan.layout.tensors, self.mechanism.steps, strict=True)):
            exact = np.rint(clipped[spec.name].reshape(-1) / step).astype(np.int64)
            noisy = exact + self.mechanism.noise(i, self._source) if spec.size else exact
            # Mechanism.for_plan left room for ten standard deviations.
            parts.append(np.clip(noisy, -magnitude, magnitude).astype(np.int32))
        return np.concatenate(parts)

    @staticmethod
    def _tensors(plan: Plan, numbers: NDArray[np.int32]) -> dict[str, NDArray[Any]]:
        """Return floats that the plan's fixed point makes into these very integers."""
        tensors: dict[str, NDArray[Any]] = {}
        start = 0
        for spec in plan.layout.tensors:
            part = numbers[start : start + spec.size].astype(np.float64)
            values = (part * (spec.clip / plan.public.magnitude)).astype(spec.dtype).reshape(spec.shape)
            tensors[spec.name] = np.clip(values, -spec.clip, spec.clip).astype(spec.dtype)
            start += spec.size
        if not np.array_equal(quantize(plan, tensors, 1).values[: plan.layout.size], numbers):
            raise PlanError(
                Reason.BAD_PLAN,
                f"expected tensors that hold {plan.public.value_bits}-bit grid numbers exactly, got a coarser dtype",
                "found the federation with float64 tensors, or with fewer value bits",
            )
        return tensors

    def _stored(self, path: Path) -> NDArray[np.int32] | None:
        if not path.exists():
            return None
        data = path.read_bytes()
        size = self._site.plan.layout.size * 4
        if len(data) != size + 32 or hashlib.sha256(data[:size]).digest() != data[size:]:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"{path}: expected the noisy update of a round under way, got a damaged file",
                "remove it; the round is then paid for again",
            )
        return np.frombuffer(data[:size], dtype="<i4").astype(np.int32)

    def _store(self, path: Path, numbers: NDArray[np.int32]) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = numbers.astype("<i4").tobytes()
        replace(path, data + hashlib.sha256(data).digest())

    def _remove_before(self, round: FederatedRound) -> None:
        """Remove what earlier rounds left; this round's stays until the next, for a crash before its mean was used."""
        for path in self._directory.glob(f"{round.federation}.*.noisy"):
            number = path.name.split(".")[1]
            if number.isdigit() and int(number) < round.number:
                path.unlink(missing_ok=True)
