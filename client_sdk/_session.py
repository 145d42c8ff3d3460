"""What every flow of one site knows: who it is, its key, its spool, its patience. No connection."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

from client_sdk._exchange import Retries
from client_sdk._retry import RetryPolicy
from client_sdk.config import Settings
from client_sdk.spool import Spool
from he_agg.codecs import Codec, codec_for
from he_agg.errors import HeAggError, KeystoreError, Reason
from he_agg.plan import PublicPlan
from keys import GroupKey, Identity, read_secret_text
from keys.sealed_box import Passphrase

__all__ = ["Passphrase", "Session", "open_session"]


@dataclass(frozen=True)
class Session:
    """One site in one federation.

    Attributes:
        site: its name.
        key: the group key of the current epoch, with the plan.
        spool: where its submissions are kept.
        retries: how failures are met.
        result_s: how long after a deadline a result is waited for. Units: seconds.
    """

    site: str
    key: GroupKey
    spool: Spool
    retries: Retries
    result_s: float = 3600.0

    @property
    def plan(self) -> PublicPlan:
        """The public half of the plan."""
        return self.key.plan.public

    @property
    def federation(self) -> str:
        """Name of the federation: the one that the key was made for."""
        return self.plan.federation

    @property
    def patience_s(self) -> float:
        """How long the aggregator may be unreachable. Units: seconds."""
        return self.retries.policy.patience_s

    @cached_property
    def codec(self) -> Codec:
        """The plan's codec, one for all rounds: it opens the group key once. Loads the HE library on first use."""
        return codec_for(self.plan)


def open_session(settings: Settings, passphrase: Passphrase = None) -> tuple[Session, str]:
    """Load what the settings name.

    Args:
        settings: where things are.
        passphrase: opens keystore and identity, or asks for what does; used only if they have one.

    Returns:
        The session, and the bearer token.

    Raises:
        KeystoreError: a secret file that must not be used.
        ConfigError: the spool cannot be used.
    """
    if settings.passphrase_file is not None and not isinstance(passphrase, str):
        passphrase = read_secret_text(settings.passphrase_file)
    identity = Identity.load(settings.identity, passphrase)
    key = GroupKey.load(settings.keystore, passphrase)
    try:
        token = read_secret_text(settings.token_file)
    except HeAggError as error:
        hint = error.hint or "the operator issues it: he-agg site add FEDERATION SITE --token-file PATH"
        raise type(error)(error.reason, error.message, hint) from error
    if " " in token:
        raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{settings.token_file}: expected one token, got several words")
    policy = RetryPolicy(patience_s=settings.patience_s)
    # Jitter only spreads load: it needs no secrecy.
    retries = Retries(policy, random.random)
    session = Session(identity.name, key, Spool(settings.spool, identity.name), retries, settings.result_s)
    return session, token
