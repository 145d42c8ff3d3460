"""Agree on a training before the first round, and make the plan that follows from it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client_sdk.adapters import Adapter, adapter_for
from client_sdk.adapters.base import bounds
from client_sdk.compression.base import Compression, Tensors
from client_sdk.training.agreement import SIGNS, signs_of
from client_sdk.training.evaluation import Evaluation, count_tensors
from client_sdk.training.strategies import FedAvg
from he_agg.errors import PlanError, Reason
from he_agg.plan.layout import Layout
from he_agg.plan.plan import Plan

__all__ = ["Recipe", "training_plan"]


@dataclass(frozen=True)
class Recipe:
    """The settings that must be the same at every site.

    Attributes:
        strategy: what the sites make of the mean.
        evaluation: what is counted about the global model in every round; None for nothing.
        compression: what is done to updates before encryption.
    """

    strategy: FedAvg = field(default_factory=FedAvg)
    evaluation: Evaluation | None = None
    compression: Compression = field(default_factory=Compression)

    def describe(self) -> str:
        """Describe all settings as text; part of the model's hash."""
        return f"{self.strategy!r} {self.evaluation!r} {self.compression.describe()}"

    def layout(self, tensors: Tensors, clip: float | Mapping[str, float], weight_cap: int, value_bits: int) -> Layout:
        """Return what travels in a round: the update, compressed; the hash of the model; counts of the evaluation."""
        example, bound = self.compression.layout(tensors, bounds(tensors, clip))
        if reserved := [name for name in example if name.startswith("he-agg/")]:
            raise PlanError(Reason.BAD_PLAN, f"tensor {reserved[0]!r}: names that begin with 'he-agg/' are taken")
        example[SIGNS], bound[SIGNS] = signs_of(hashlib.sha256().hexdigest()), 1.0
        if self.evaluation is not None:
            zeros, widest = count_tensors(self.evaluation, value_bits, weight_cap)
            for name, array in zeros.items():
                example[name], bound[name] = np.asarray(array), widest
        return Layout.of(example, clip=bound, weight_cap=weight_cap)

    def check_plan(self, plan: Plan, tensors: Tensors, naming: str = "") -> None:
        """Check that a plan is for a model with these tensors and this recipe.

        Args:
            naming: how other names may have come about, for the hint.
        """
        mine = {spec.name: spec for spec in plan.layout.tensors}
        full = self.layout(tensors, 1.0, plan.layout.weight_cap, plan.public.value_bits)
        hint = "make the plan with training_plan(...) and the same model, evaluation and compression as train(...)"
        hint = f"{naming}; {hint}" if naming else hint
        for spec in full.tensors:
            got = mine.pop(spec.name, None)
            if got is None or (got.shape, got.dtype) != (spec.shape, spec.dtype):
                seen = "none" if got is None else f"{got.dtype} {got.shape}"
                raise PlanError(
                    Reason.LAYOUT_MISMATCH,
                    f"tensor {spec.name!r}: expected {spec.dtype} {spec.shape} for this model and recipe, "
                    f"the federation's plan has {seen}",
                    hint,
                )
            if spec.name.startswith("he-agg/") and got.clip != spec.clip:
                raise PlanError(Reason.LAYOUT_MISMATCH, f"tensor {spec.name!r}: another clip bound", hint)
        if mine:
            raise PlanError(
                Reason.LAYOUT_MISMATCH,
                f"tensor {next(iter(mine))!r}: the federation's plan has it, this model and recipe have not",
                hint,
            )


def training_plan(
    federation: str,
    model: Any,
    *,
    clip: float | Mapping[str, float],
    weight_cap: int,
    max_sites: int,
    strategy: FedAvg | None = None,
    evaluation: Evaluation | None = None,
    compression: Compression | None = None,
    adapter: Adapter[Any] | None = None,
    value_bits: int = 16,
    **options: Any,
) -> Plan:
    """Make the plan of a federation that trains a model: `Path("x.plan").write_bytes(plan.encode())`.

    Args:
        clip: bound on absolute values of an update, or patterns to bounds (`{"*running_*": 10, "*": 1}`).
        weight_cap: the largest weight (sample count) of a site.
        max_sites: most sites in one round.
        value_bits: width of one encrypted value.

    Raises:
        PlanError: no plan can be made of it.
        InputError: the model cannot be averaged.
    """
    tensors = (adapter or adapter_for(model)).tensors(model)
    recipe = Recipe(strategy or FedAvg(), evaluation, compression or Compression())
    layout = recipe.layout(tensors, clip, weight_cap, value_bits)
    return Plan.create(federation, layout, max_sites=max_sites, value_bits=value_bits, **options)
