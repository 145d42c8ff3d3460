"""Record-level differential privacy at a site: DP-SGD by Opacus, with its cost in a ledger.

This is the guarantee that hospitals can use: a patient is one among hundreds, a hospital one among ten. The update that
leaves is already private, so it needs no further noise and no trust in the other hospitals.
"""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np

from client_sdk.privacy.accountant import epsilon_of
from client_sdk.privacy.ledger import Ledger
from client_sdk.privacy.mechanism import ORDERS
from he_agg.errors import ConfigError, Reason

__all__ = ["PrivateTraining", "private_training"]

_made: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()
"""By module, a weak reference to what was made around it last: the module's hooks keep that alive, nothing else."""


@dataclass
class PrivateTraining:
    """What `private_training` made: use these three in the training loop as usual.

    Attributes:
        module: computes gradients per example. Its `_module` is the original one; use that one's `state_dict`.
        optimizer: clips each example's gradient and adds noise.
        loader: draws each batch at random (Poisson sampling).
        noise_multiplier: noise over clip norm.
        sample_rate: chance of an example to be in a batch.
    """

    module: Any
    optimizer: Any
    loader: Any
    noise_multiplier: float
    sample_rate: float

    def rdp(self, steps: int) -> Any:
        """Compute what so many optimizer steps cost each example, as Renyi divergence."""
        rdp = _opacus().accountants.analysis.rdp.compute_rdp(
            q=self.sample_rate, noise_multiplier=self.noise_multiplier, steps=steps, orders=list(ORDERS)
        )
        return np.asarray(rdp, dtype=np.float64)

    def epsilon(self, steps: int, delta: float) -> float:
        """Compute the epsilon of so many optimizer steps.

        Args:
            delta: from 0 to 1.
        """
        return epsilon_of(self.rdp(steps), delta)

    def charge(self, ledger: Ledger, what: str, steps: int) -> bool:
        """Pay for local training of so many steps, before it begins.

        Args:
            ledger: of the data set. Examples and hospitals are different units: keep one ledger for each.
            what: federation and round. Paying again for the same costs nothing, so a training that was interrupted may
                be begun again, but only one result of it may ever be sent.

        Raises:
            BudgetSpentError: the budget does not cover it.
        """
        digest = hashlib.sha256(f"{what} {steps} {self.noise_multiplier!r} {self.sample_rate!r}".encode()).hexdigest()
        return ledger.charge(what, digest, self.rdp(steps))


def private_training(
    module: Any, optimizer: Any, loader: Any, *, noise_multiplier: float, clip_norm: float, secure: bool = False
) -> PrivateTraining:
    """Make a PyTorch training loop differentially private for single examples.

    Call it in every round anew, inside `fit`: what an earlier call made of the same module ends with that.

    Args:
        module: without BatchNorm, whose statistics mix examples; GroupNorm and LayerNorm do not.
        optimizer: of the module's parameters.
        loader: of the site's examples.
        noise_multiplier: noise over clip norm.
        clip_norm: bound on each example's gradient.
        secure: noise from a cryptographic generator (needs torchcsprng). Without it the noise is PyTorch's own float
            Gaussian: good against statistics, not against an attack on floating point.

    Raises:
        ConfigError: Opacus is not installed, the module has layers that mix examples, or it is in the hands of another
            `PrivacyEngine`.
    """
    opacus = _opacus()
    before = _made.pop(module, lambda: None)()
    if before is not None:
        before.to_standard_module()
    if hasattr(module, "autograd_grad_sample_hooks") or isinstance(module, opacus.GradSampleModule):
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"expected a plain module, got a {type(module).__name__} that a PrivacyEngine has made private already",
            "hand in the module as it was built; private_training makes it private, once in each round",
        )
    problems = opacus.validators.ModuleValidator.validate(module, strict=False)
    if problems:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"expected a module whose layers keep examples apart, got: {problems[0]}",
            "replace BatchNorm by GroupNorm, or let opacus.validators.ModuleValidator.fix(module) do it at all sites",
        )
    engine = opacus.PrivacyEngine(accountant="rdp", secure_mode=secure)
    private, optimizer, loader = engine.make_private(
        module=module,
        optimizer=optimizer,
        data_loader=loader,
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip_norm,
    )
    _made[module] = weakref.ref(private)
    return PrivateTraining(private, optimizer, loader, noise_multiplier, float(loader.sample_rate))


def _opacus() -> Any:
    try:
        import opacus
        import opacus.accountants.analysis.rdp
        import opacus.validators
    except ImportError as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            "record-level privacy needs PyTorch and Opacus, which are not installed",
            "pip install 'he-agg[privacy]' torch opacus",
        ) from error
    return opacus
