"""Differential privacy: what the mean may tell about one hospital, or one patient.

::

    from client_sdk import Site, privacy

    with Site.open("site.toml") as site:
        mechanism = privacy.Mechanism.for_plan(site.plan, clip_norm=1.0, noise_multiplier=4.0, colluders=1)
        ledger = privacy.Ledger("cohort.budget", epsilon=10, delta=1e-5)
        private = privacy.PrivateUpdates(site, mechanism, ledger, "private-updates")
        for round in site.rounds():
            mean = private.aggregate(round, train(model))

Read docs/privacy.md first: it says what ten hospitals can afford.
"""

from client_sdk.privacy.accountant import epsilon_of, gaussian_epsilon, gaussian_noise_for
from client_sdk.privacy.clipping import clip_update, l2_norm
from client_sdk.privacy.ledger import BudgetSpentError, Charge, Ledger
from client_sdk.privacy.mechanism import ORDERS, Mechanism, noisy_clip
from client_sdk.privacy.sampling import discrete_gaussian, skellam
from client_sdk.privacy.training import PrivateTraining, private_training
from client_sdk.privacy.update import PrivateUpdates

__all__ = [
    "ORDERS",
    "BudgetSpentError",
    "Charge",
    "Ledger",
    "Mechanism",
    "PrivateTraining",
    "PrivateUpdates",
    "clip_update",
    "discrete_gaussian",
    "epsilon_of",
    "gaussian_epsilon",
    "gaussian_noise_for",
    "l2_norm",
    "noisy_clip",
    "private_training",
    "skellam",
]
