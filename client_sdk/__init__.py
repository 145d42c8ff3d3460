"""Take part in a federation from inside a hospital: encrypt, upload, wait, download, decrypt.

::

    from client_sdk import Site

    with Site.open("site.toml") as site:
        for round in site.rounds():
            update, n = your_training(model, round)
            mean = round.aggregate(update, weight=n)
            model.apply(mean.tensors)

Plans, means and errors are in `he_agg`.
"""

import client_sdk._own  # noqa: F401 - says which file hides a package of ours, before one is imported
from client_sdk.async_site import AsyncRound, AsyncSite
from client_sdk.config import Settings
from client_sdk.federated import Federated, FederatedRound, Outcome
from client_sdk.progress import (
    Event,
    Listener,
    Notice,
    Phase,
    PhaseFinished,
    PhaseProgress,
    PhaseStarted,
    Retrying,
    Waits,
)
from client_sdk.site import Round, Site
from he_agg.documents.state import FederationState
from he_agg.protocol.messages import Receipt

__all__ = [
    "AsyncRound",
    "AsyncSite",
    "Event",
    "Federated",
    "FederatedRound",
    "FederationState",
    "Listener",
    "Notice",
    "Outcome",
    "Phase",
    "PhaseFinished",
    "PhaseProgress",
    "PhaseStarted",
    "Receipt",
    "Retrying",
    "Round",
    "Settings",
    "Site",
    "Waits",
]
