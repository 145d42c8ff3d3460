"""Hold what every flow of one member knows: who it is, its keys, its spool, its patience. No connection."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypedDict

from client_sdk._disk.chain import Chain
from client_sdk._disk.dealt import Dealt
from client_sdk._disk.ledger import Ledger
from client_sdk._disk.promises import Promises
from client_sdk._disk.rosters import Rosters
from client_sdk._disk.security_log import SecurityLog
from client_sdk._disk.sharing_keys import SharingKeys
from client_sdk._disk.spool import Spool, SpoolEntry
from client_sdk._disk.stored import Stored
from client_sdk._disk.verdicts import Verdicts
from client_sdk._net.signing import Signer
from client_sdk._protocol.exchange import Retries
from client_sdk._protocol.retry import RetryPolicy
from client_sdk.coarse import Coarse
from client_sdk.config import MemberSettings, Settings, TrusteeSettings
from he_agg.codecs import Codec, codec_for
from he_agg.documents.federation import FederationDocument
from he_agg.documents.roster import Role
from he_agg.documents.sharing import HolderList
from he_agg.errors import KeystoreError, Reason
from he_agg.ids import RoundId
from he_agg.kernels.buffers import Buffers
from he_agg.plan.plan import PublicPlan
from keys import GroupKey, Identity, read_secret_text
from keys.files import read_document
from keys.keystores import Keystores
from keys.passphrase import Once, from_keyring
from keys.sealed_box import Passphrase

__all__ = ["Holding", "MemberSession", "Passphrase", "Session", "Trustee", "open_session", "open_trustee", "retries_of"]


class _Patience(TypedDict):
    retries: Retries
    min_sites: int
    result_s: float
    pause_s: float
    round_s: float


@dataclass
class Holding:
    """What this process has done and told as a holder. What has to outlive it is on disk.

    Attributes:
        answered: the rounds whose answer the aggregator has.
        keyed: the epochs whose sharing key the aggregator has, or will not take.
        refused: digests of the records that it would not open, and answers never.
        told: what people were told already.
        lists: the list of holders of the round that this site has dealt to last.
    """

    answered: set[RoundId] = field(default_factory=set)
    keyed: set[int] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    lists: dict[RoundId, HolderList] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MemberSession(ABC):
    """One member in one federation: what it needs to follow rosters and records, and to hold shares.

    Attributes:
        min_sites: fewest sites whose sum it opens or answers for, by its own settings.
        result_s: how long after a deadline a result is waited for. Units: seconds.
        pause_s: how long, at most, the aggregator's word lengthens that. Units: seconds.
        round_s: how long, at most, a round that this site is invited to is waited for. Units: seconds.
        clock: the time by which rosters expire. Units: seconds since 1970, UTC.
        disputes: the rounds of whose dispute it has told.
        holding: what it has done as a holder.
    """

    identity: Identity
    rosters: Rosters
    chain: Chain
    ledger: Ledger
    log: SecurityLog
    spool: Spool
    retries: Retries
    min_sites: int = 1
    result_s: float = 3600.0
    pause_s: float = 7 * 86400.0
    round_s: float = 30 * 86400.0
    clock: Callable[[], float] = field(default=time.time, repr=False)
    disputes: set[RoundId] = field(default_factory=set, repr=False)
    holding: Holding = field(default_factory=Holding, repr=False)

    @property
    @abstractmethod
    def plan(self) -> PublicPlan:
        """The public half of the plan."""

    @property
    def site(self) -> str:
        """The member's name."""
        return self.identity.name

    @property
    def federation(self) -> str:
        """Name of the federation: the one that the plan was made for."""
        return self.plan.federation

    @property
    def signer(self) -> Signer:
        """Signs what this member asks."""
        return Signer(self.site, self.identity.signing_key, self.federation, self.clock)

    @property
    def patience_s(self) -> float:
        """How long the aggregator may be unreachable. Units: seconds."""
        return self.retries.policy.patience_s

    def stored(self, entry: SpoolEntry) -> Stored | None:
        """Return the submission that is stored in a place and may be sent. See `SpoolEntry.stored`."""
        return entry.stored(self.ledger, self.plan.places)

    def sent(self, entry: SpoolEntry) -> Stored | None:
        """Return it only if it was sent, or some of it was: then the round's record has to say what became of it."""
        return None if self.ledger.sent(entry.round_id) is None else self.stored(entry)

    def is_stored(self, round_id: RoundId) -> bool:
        """Say whether a submission to a round is stored that may be sent, or is damaged."""
        return self.spool.entry(round_id).is_stored(self.ledger, self.plan.places)

    def pending(self) -> list[RoundId]:
        """List rounds with a stored submission whose mean was not fetched yet, oldest first."""
        return self.spool.pending(self.federation, self.ledger, self.plan.places)

    @cached_property
    def promises(self) -> Promises:
        """What it has promised as a holder."""
        return Promises(self.spool.promises_path(self.federation), self.spool.answers_path(self.federation))

    @cached_property
    def sharing_keys(self) -> SharingKeys:
        """What its shares are sealed to."""
        return SharingKeys(self.spool.sharing_keys_path(self.federation), self.federation, self.identity)


@dataclass(frozen=True, kw_only=True)
class Trustee(MemberSession):
    """A holder that is no site: it has no group key, and opens nothing.

    That all members of a sum have one group key, it takes from their signed manifests.

    Attributes:
        public: the public half of the plan, as it was kept when the trustee joined.
    """

    public: PublicPlan

    @property
    def plan(self) -> PublicPlan:
        """The public half of the plan."""
        return self.public


@dataclass(frozen=True, kw_only=True)
class Session(MemberSession):
    """One site in one federation.

    Attributes:
        keys: its keystores.
        memory: of parts, used again from round to round.
        coarse: what people were warned of already.
    """

    keys: Keystores
    memory: Buffers = field(default_factory=Buffers, repr=False)
    coarse: Coarse = field(default_factory=Coarse, repr=False)

    @property
    def plan(self) -> PublicPlan:
        """The public half of the plan."""
        return self.key.plan.public

    @property
    def key(self) -> GroupKey:
        """The group key of the newest epoch that this site has accepted."""
        return self.keys.newest

    def key_of(self, epoch: int) -> GroupKey:
        """Return the group key of an epoch, of an old one too.

        Raises:
            KeystoreError: `NOT_MY_EPOCH`: this site has no keystore of it.
        """
        key = self.keys.of(epoch)
        if key is None:
            raise self.not_my_epoch(epoch)
        return key

    def not_my_epoch(self, epoch: int) -> KeystoreError:
        """Return the error for an epoch that this site has no keystore of."""
        newest, trouble = self.key.epoch, f" ({self.keys.trouble})" if self.keys.trouble else ""
        if epoch > newest:
            hint = "run `he-agg epoch accept --config site.toml`; a site that is running takes up the new key by itself"
        else:
            hint = (
                f"run `he-agg epoch accept --config site.toml`, which gets the keys of epochs that this site missed; "
                f"one that was lost comes from your backup, as {self.keys.path_of(epoch).name}"
            )
        return KeystoreError(
            Reason.NOT_MY_EPOCH,
            f"site {self.site} has no keystore of epoch {epoch} of federation {self.federation}, its newest is of "
            f"epoch {newest}{trouble}",
            hint,
        )

    @cached_property
    def verdicts(self) -> Verdicts:
        """What it has found when it looked at sums."""
        return Verdicts(self.spool.verdicts_path(self.federation), self.federation, self.site)

    @cached_property
    def dealt(self) -> Dealt:
        """To which holders it has dealt."""
        return Dealt(self.spool.dealt_path(self.federation))

    @cached_property
    def codec(self) -> Codec:
        """The plan's codec, one for all rounds: it opens the group key once. Loads the HE library on first use."""
        return codec_for(self.plan)


def retries_of(settings: MemberSettings) -> Retries:
    """Return how a member with these settings meets failures."""
    policy = RetryPolicy(
        patience_s=settings.patience_s,
        request_s=settings.request_s,
        least_bytes_per_s=settings.least_bytes_per_s,
    )
    # Jitter only spreads load: it needs no secrecy.
    return Retries(policy, random.random)


def open_session(settings: Settings, passphrase: Passphrase = None) -> Session:
    """Load what the settings name.

    Args:
        passphrase: opens keystore and identity, or asks for what does; used only if they have one.

    Raises:
        KeystoreError: a secret file that must not be used, or an identity that is not the one of the roster.
        ConfigError: spool, security log or roster cannot be used, or the roster does not list this site.
    """
    passphrase = _passphrase_of(settings, passphrase)
    identity = Identity.load(settings.identity, passphrase)
    keys = Keystores(settings.keystore, passphrase)
    spool = Spool(settings.spool, identity.name)
    federation = keys.newest.plan.public.federation
    rosters = Rosters(settings.roster, federation, identity)
    return Session(
        identity=identity,
        keys=keys,
        rosters=rosters,
        chain=Chain(spool.chain_path(federation)),
        ledger=Ledger(spool.ledger_path(federation)),
        log=SecurityLog(settings.security_log, time.time),
        spool=spool,
        **_patience(settings),
    )


def open_trustee(settings: TrusteeSettings, passphrase: Passphrase = None) -> Trustee:
    """Load what the settings of a trustee name.

    Args:
        passphrase: opens its identity, or asks for what does; used only if it has one.

    Raises:
        KeystoreError: a secret file that must not be used, or an identity that is not the one of the roster.
        ConfigError: plan, spool, security log or roster cannot be used, or the roster does not list this holder.
    """
    identity = Identity.load(settings.identity, _passphrase_of(settings, passphrase))
    plan = read_document(settings.plan, FederationDocument.parse, "the public half of a plan").plan
    spool = Spool(settings.spool, identity.name)
    return Trustee(
        identity=identity,
        public=plan,
        rosters=Rosters(settings.roster, plan.federation, identity, Role.HOLDER),
        chain=Chain(spool.chain_path(plan.federation)),
        ledger=Ledger(spool.ledger_path(plan.federation)),
        log=SecurityLog(settings.security_log, time.time),
        spool=spool,
        **_patience(settings),
    )


def _passphrase_of(settings: MemberSettings, passphrase: Passphrase) -> Passphrase:
    if settings.passphrase_file is not None and not isinstance(passphrase, str):
        return read_secret_text(settings.passphrase_file)
    if settings.passphrase_keyring is not None and not isinstance(passphrase, str):
        return Once(partial(from_keyring, settings.passphrase_keyring))
    return passphrase


def _patience(settings: MemberSettings) -> _Patience:
    return {
        "retries": retries_of(settings),
        "min_sites": settings.min_sites,
        "result_s": settings.result_s,
        "pause_s": settings.pause_s,
        "round_s": settings.round_s,
    }
