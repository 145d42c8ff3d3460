"""Take part in a federation from inside a hospital: encrypt, upload, wait, download, decrypt.

::

    from client_sdk import Site

    with Site.open("hospital-a.toml") as site:
        for round in site.rounds():
            update, n = train(model, round)
            mean = round.aggregate(update, weight=n)
            model.apply(mean.tensors)
"""

from client_sdk.async_site import AsyncRound, AsyncSite
from client_sdk.config import Settings
from client_sdk.federated import Federated, FederatedRound, Outcome
from client_sdk.progress import Event, Listener, Phase, PhaseFinished, PhaseProgress, PhaseStarted, Retrying
from client_sdk.site import Round, Site
from he_agg.errors import (
    ConfigError,
    DecryptionError,
    HeAggError,
    InputError,
    KeystoreError,
    PlanError,
    ProtocolError,
    Reason,
    TransportError,
    WireError,
)
from he_agg.plan.fixedpoint import Mean, ResolutionWarning
from he_agg.protocol.messages import CurrentRound, Receipt

__all__ = [
    "AsyncRound",
    "AsyncSite",
    "ConfigError",
    "CurrentRound",
    "DecryptionError",
    "Event",
    "Federated",
    "FederatedRound",
    "HeAggError",
    "InputError",
    "KeystoreError",
    "Listener",
    "Mean",
    "Outcome",
    "Phase",
    "PhaseFinished",
    "PhaseProgress",
    "PhaseStarted",
    "PlanError",
    "ProtocolError",
    "Reason",
    "Receipt",
    "ResolutionWarning",
    "Retrying",
    "Round",
    "Settings",
    "Site",
    "TransportError",
    "WireError",
]
