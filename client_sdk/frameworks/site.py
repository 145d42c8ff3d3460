"""A site's side of a run: encrypt what was learned, verify a sum before it is opened, keep the global model."""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk.adapters.base import Tensors, floored, is_variance, same_layout
from client_sdk.coarse import Coarse
from client_sdk.federated import repeated
from client_sdk.frameworks.adder import check_shared, round_of
from client_sdk.frameworks.claim import NO_SUM, RUN_BYTES, Carried, Claim, digest_of
from client_sdk.frameworks.folder import RunFolder
from client_sdk.training.agreement import SIGNS, check_agreement, model_hash, signs_of
from he_agg.canonical import check_hex
from he_agg.codecs import codec_for
from he_agg.documents.manifest import NONCE_BYTES
from he_agg.errors import DecryptionError, InputError, ProtocolError, Reason
from he_agg.mac import RoundMac
from he_agg.plan.fixedpoint import OnOverflow, Quantizing, dequantize
from he_agg.plan.sections import Part
from he_agg.protocol.wire import encode_part, parse_part
from keys import GroupKey
from keys.recognition import recognise

__all__ = ["Keystore", "RunSite"]

_log = logging.getLogger(__name__)


class Keystore:
    """A site's keystore file. The key is read when it is first needed."""

    def __init__(self, path: Path, passphrase: str | None = None) -> None:
        self.path, self.coarse = path, Coarse()
        self._passphrase = passphrase

    @cached_property
    def key(self) -> GroupKey:
        """The group key.

        Raises:
            KeystoreError: the file cannot be used.
            PlanError: its plan splits keys.
        """
        key = GroupKey.load(self.path, self._passphrase)
        check_shared(key.plan.public)
        return key

    @cached_property
    def codec(self) -> Any:
        """The plan's codec."""
        return codec_for(self.key.plan.public)

    def __reduce__(self) -> Any:
        # Ray pickles what an app holds: neither key nor HE library goes with it, each process loads its own.
        return Keystore, (self.path, self._passphrase)


class RunSite:
    """One site in one run.

    Arrays that the plan does not have (integer buffers, layers that `training_plan`'s adapter excludes) stay here.

    Args:
        name: the site's, as `site_name` gives it.
        run: id of the run, which the server has drawn.
    """

    def __init__(self, keystore: Keystore, name: str, run: str) -> None:
        check_hex(run, RUN_BYTES, "run")  # a server drew it, and it names a folder here
        self._keystore, self.name, self.run = keystore, name, run
        self._plan = keystore.key.plan
        self._folder = RunFolder(keystore.path, name, run)
        kept = self._folder.load()
        self._model, self._done, self._digest = ({}, 0, NO_SUM) if kept is None else kept
        self._begun = kept is not None

    @property
    def model_path(self) -> Path:
        """Where the global model is kept: `numpy.load` reads it."""
        return self._folder.model_path

    @property
    def done(self) -> int:
        """The round that the model is after."""
        return self._done

    def begin(self, weights: Mapping[str, Any]) -> None:
        """Take the weights that all sites start from, unless there is a model of this run already."""
        if not self._begun:
            self._model, self._begun = dict(weights), True
            self._folder.save(self._model, 0, NO_SUM)

    def follow(self, sums: Mapping[int, Carried], last: int) -> Tensors:
        """Open the sums that this site has not had yet, and return the global model after them.

        Args:
            sums: by round; those that this site has had are not looked at.
            last: the newest round that has one.

        Raises:
            ProtocolError: a sum is missing, or it is not one that this site may open.
            WireError: a sum, or a claim in it, is not of this run.
            DecryptionError: it is not the sum of the submissions that it names. Nothing was opened.
        """
        if not self._begun:
            raise ProtocolError(
                Reason.SUM_GONE,
                f"site {self.name}: expected the initial weights of run {self.run[:12]}, for this site has no model of "
                "it, and they did not come",
                "this site takes part in the next run",
            )
        for number in range(self._done + 1, last + 1):
            if number not in sums:
                raise ProtocolError(
                    Reason.SUM_GONE,
                    f"site {self.name} has the model of round {self._done}, and the sum of round {number} did not come",
                    "let the server keep more sums (keep_sums), or start the run again",
                )
            self._open(number, *sums[number])
        return dict(self._model)

    def _open(self, number: int, claims: list[bytes], parts: list[bytes]) -> None:
        plan, key = self._plan, self._keystore.key
        read = self._check_claims(number, claims, len(parts))
        with RoundMac(key.mac_key, plan.public, key.epoch, round_of(plan.public, number)) as mac:
            check = mac.check((claim.site, claim.nonce, claim.tags) for claim in read)
            total: list[Part] = []
            for place in plan.public.places:
                part = parse_part(parts[place.number], place, plan.plan_id, check_residues=False)
                total.append(part)
                if not check.holds(place.number, part.packed):
                    sites = ", ".join(claim.site for claim in read)
                    raise DecryptionError(
                        Reason.SUM_REJECTED,
                        f"round {number}: part {place.number} of the sum is not what {sites} have submitted together; "
                        "nothing was opened",
                        "stop, and call the coordinator: the server, or a site with another key, has altered it",
                    )

        # Until here nothing was noted: what does not verify must not keep the right sum out.
        digest = digest_of(claims)
        if (noted := self._folder.first_sum(number, digest)) != digest:
            raise ProtocolError(
                Reason.CHAIN_MISMATCH,
                f"round {number}: expected sum {noted[:12]}, which this site was shown first, got sum {digest[:12]}; "
                "of two sums of a round, the difference would tell about single sites, so only one is opened",
                "call the coordinator: the server makes two sums of one round",
            )

        sums = self._keystore.codec.decrypt(total.__getitem__, len(read), key, round_of(plan.public, number))
        mean = dequantize(plan, sums, len(read))
        check_agreement(plan, mean, self._hash(number), number)
        moved = dict(self._model)
        for spec in plan.layout.tensors:
            if spec.name in moved:
                wide = moved[spec.name].astype(np.float64) + mean.tensors[spec.name].astype(np.float64)
                moved[spec.name] = np.asarray(wide.astype(moved[spec.name].dtype))  # 0-d sums are no arrays
        model = floored(moved, {name for name in moved if is_variance(name)})
        self._folder.save(model, number, digest)
        self._model, self._done, self._digest = model, number, digest
        self._settle(number, {claim.site for claim in read})

    def _settle(self, number: int, members: set[str]) -> None:
        """Forget the submission of a round whose sum was opened, and its update if it is not in there."""
        kept = self._folder.submission(number)
        if kept is not None and self.name not in members:
            _log.warning("round %d: the sum is without this site's update, which came too late or not at all", number)
            self._folder.forget_sent(kept[1])
        self._folder.drop_submission()

    def _check_claims(self, number: int, claims: list[bytes], n_parts: int) -> list[Claim]:
        public, key = self._plan.public, self._keystore.key
        # A sum of one would be an update: refuse what the plan does not allow, before anything is opened.
        if not public.min_sites <= len(claims) <= public.max_sites or n_parts != len(public.places):
            raise ProtocolError(
                Reason.BAD_ANSWER,
                f"round {number}: expected a sum of {public.min_sites} to {public.max_sites} sites in "
                f"{len(public.places)} parts, got {len(claims)} in {n_parts}",
            )
        read = [Claim.parse(claim) for claim in claims]
        names = [claim.site for claim in read]
        if names != sorted(set(names)):
            raise ProtocolError(
                Reason.BAD_ANSWER, f"round {number}: expected each site once, in order, got {', '.join(names)}"
            )
        for claim in read:
            claim.check(public, self.run, round_of(public, number), key.epoch, key.key_id, self._digest)
        self._check_own(number, dict(zip(names, claims, strict=True)))
        return read

    def _check_own(self, number: int, claims: dict[str, bytes]) -> None:
        shown, kept = claims.get(self.name), self._folder.submission(number)
        if shown is not None and (kept is None or kept[0][0] != [shown]):
            raise ProtocolError(
                Reason.SECOND_SUBMISSION,
                f"round {number}: the sum names a submission of site {self.name} that is not the one that is kept here",
                "two machines take part under one name, or what was kept is lost; give each site a name of its own",
            )

    def difference(self, after: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
        """Return what training has changed, and the arrays that stay here.

        Args:
            after: the model after training, all of it.

        Raises:
            InputError: its layout is not the global model's.
        """
        same_layout(after, self._model, "the trained model", "the global model")
        names = self._names
        update = {name: np.asarray(after[name] - self._model[name]) for name in names}
        return update, {name: array for name, array in after.items() if name not in names}

    @property
    def _names(self) -> list[str]:
        names = [spec.name for spec in self._plan.layout.tensors if spec.name != SIGNS]
        if missing := [name for name in names if name not in self._model]:
            raise InputError(
                Reason.MISSING_TENSOR,
                f"tensor {missing[0]!r}: the plan has it, the model not",
                "make the plan with training_plan and the same arrays",
            )
        return names

    def submit(
        self,
        number: int,
        update: Mapping[str, Any],
        weight: int,
        local: Tensors | None = None,
        *,
        on_overflow: OnOverflow = "error",
        may_repeat: bool = False,
    ) -> Carried:
        """Encrypt an update for a round, once: asked again for the same round, the first submission comes back.

        Args:
            update: the plan's tensors.
            weight: number of examples. It travels encrypted.
            local: arrays that stay at this site as it has trained them.
            on_overflow: what entries beyond the clip bound get: an "error", or "clip".
            may_repeat: whether an update that is in a sum, or may be, is encrypted for another one.

        Raises:
            InputError: the update is not what the plan allows, or is in a sum already, or may be.
            ProtocolError: the round is not the one that this site is in.
        """
        if number != self._done + 1:
            raise ProtocolError(
                Reason.ROUND_CLOSED,
                f"site {self.name}: expected an update for round {self._done + 1} of run {self.run[:12]}, got one for "
                f"round {number}; nothing was encrypted",
                "start a new run: a site submits to each round of a run once",
            )
        kept = self._folder.submission(number)
        if kept is not None:
            _log.warning("round %d: this site has encrypted its update before; that submission is sent again", number)
            return kept[0]
        missing = [name for name in self._names if name not in update]
        if missing:
            raise InputError(Reason.MISSING_TENSOR, f"tensor {missing[0]!r}: the plan has it, the update not")
        tensors = {name: update[name] for name in self._names} | {SIGNS: signs_of(self._hash(number))}
        values = Quantizing(self._plan, tensors, weight, on_overflow=on_overflow)
        self._keystore.coarse.tell(f"site {self.name}", values.rounded)
        fingerprint = self._recognise(values, weight)
        where = f"round {number} of run {self.run}"
        noted = self._folder.first_sent(fingerprint, where)
        if noted != where and not may_repeat:
            raise repeated(f"{number} of run {self.run}", f"was encrypted for {noted}, and may be in its sum")
        submission = self._encrypt(number, values)
        self._folder.keep_submission(number, submission, fingerprint)
        if local:
            # What is not averaged stays as this site has trained it.
            self._model |= local
            self._folder.save(self._model, self._done, self._digest)
        return submission

    def _recognise(self, values: Quantizing, weight: int) -> str:
        secret = hmac.digest(self._keystore.key.mac_key, b"he-agg/run/sent/v1", "sha256")
        specs = self._plan.layout.tensors
        arrays = [array for spec, array in zip(specs, values.arrays, strict=True) if spec.name != SIGNS]
        return recognise(secret, weight, arrays)

    def _encrypt(self, number: int, values: Quantizing) -> Carried:
        public, key, round_id = self._plan.public, self._keystore.key, round_of(self._plan.public, number)
        claim = Claim(
            self.run,
            round_id,
            key.epoch,
            key.key_id,
            public.plan_id,
            self.name,
            secrets.token_hex(NONCE_BYTES),
            self._digest,
        )
        encoded: dict[int, bytes] = {}
        with RoundMac(key.mac_key, public, key.epoch, round_id) as mac:
            total = mac.new_total()

            def watch(part: int) -> Any:
                return mac.watch(total, part)

            for part in self._keystore.codec.encrypt(values, key, round_id, watch=watch):
                encoded[part.number] = encode_part(part, public.places[part.number], public.plan_id)
            claim = replace(claim, tags=mac.tags(total, self.name, claim.nonce))
        return [claim.encode()], [encoded[place.number] for place in public.places]

    def _hash(self, number: int) -> str:
        names = {spec.name for spec in self._plan.layout.tensors}
        shared = {name: array for name, array in self._model.items() if name in names}
        return model_hash(shared, "run", str(number))
