"""Keep a run on the disk of a site, beside its keystore: the model, the submission, what must not be repeated.

stroke.keystore.runs/hospital-a/<run>/model.npz      the global model, and which round it is after
                                <run>/submission     the encrypted update of the round that is open
                                <run>/sum-3          digest of the one sum of round 3 that may be opened
                                sent/<fingerprint>   run and round that an update was encrypted for
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk.adapters.base import Tensors
from client_sdk.frameworks.claim import Carried
from he_agg import canonical
from he_agg.errors import ConfigError, Reason, WireError
from he_agg.host.files import create_once, file_trouble, make_directory, replace, sync_directory
from he_agg.plan.sections import MAX_PARTS

__all__ = ["RunFolder"]

_META = "he-agg"
_MAX_HEAD = 2**24


class RunFolder:
    """One site's folder for one run. All that is in it survives a crash at any moment.

    Args:
        keystore: beside which it lies.
    """

    def __init__(self, keystore: Path, site: str, run: str) -> None:
        self._sent = keystore.with_name(f"{keystore.name}.runs") / site / "sent"
        self.path = self._sent.with_name(run)
        try:
            make_directory(self._sent)
            make_directory(self.path)
        except OSError as error:
            raise file_trouble(error, f"{self.path} cannot be made") from error

    @property
    def model_path(self) -> Path:
        """The global model: `numpy.load` reads it, with one entry of ours that says which round it is after."""
        return self.path / "model.npz"

    def save(self, model: Tensors, number: int, digest: str) -> None:
        """Replace the model.

        Args:
            number: the round that it is after.
            digest: of that round's sum.
        """
        names = list(model)
        members = {_META: np.array(json.dumps({"round": number, "sum": digest, "names": names}))}
        members |= {_member(name, i): np.asarray(array) for i, (name, array) in enumerate(model.items())}
        try:
            replace(self.model_path, lambda file: np.savez(file, allow_pickle=False, **members))
        except OSError as error:
            raise file_trouble(error, f"{self.model_path} cannot be written") from error

    def load(self) -> tuple[Tensors, int, str] | None:
        """Read the model, its round and the digest of that round's sum; None if there is none yet."""
        try:
            with self.model_path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                meta: dict[str, Any] = json.loads(str(file[_META]))
                model = {name: file[_member(name, i)] for i, name in enumerate(meta["names"])}
                return model, int(meta["round"]), str(meta["sum"])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_trouble(error, f"{self.model_path} cannot be read") from error
        except Exception as error:  # numpy, zipfile and json raise half a dozen types for a damaged file
            raise self._damaged(self.model_path) from error

    def keep_submission(self, number: int, submission: Carried, fingerprint: str) -> None:
        """Put the submission of a round in the place of the one before. It is durable when this returns.

        Args:
            fingerprint: of the update that is in it.
        """
        (claim,), parts = submission
        head: dict[str, canonical.Json] = {"round": number, "claim": claim.decode(), "update": fingerprint}
        head |= {"parts": [len(part) for part in parts]}
        try:
            replace(self._submission, b"".join((canonical.encode(head), b"\n", *parts)))
        except OSError as error:
            raise file_trouble(error, f"{self._submission} cannot be written") from error

    def submission(self, number: int) -> tuple[Carried, str] | None:
        """Read the submission of a round, and the fingerprint of what is in it; None if none is kept."""
        try:
            head, _, rest = self._submission.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_trouble(error, f"{self._submission} cannot be read") from error
        try:
            fields = canonical.Fields(canonical.parse(head, _MAX_HEAD), "submission")
            of, claim = fields.integer("round", 1, 10**9), fields.string("claim", _MAX_HEAD).encode()
            lengths, fingerprint = fields.array("parts", MAX_PARTS), fields.hex("update", 32)
        except WireError as error:
            raise self._damaged(self._submission) from error
        if sum(lengths) != len(rest):
            raise self._damaged(self._submission)
        ends = list(itertools.accumulate(lengths))
        parts = [rest[end - length : end] for end, length in zip(ends, lengths, strict=True)]
        return (([claim], parts), fingerprint) if of == number else None

    def drop_submission(self) -> None:
        """Forget the submission of a round whose sum was opened."""
        self._submission.unlink(missing_ok=True)

    def first_sum(self, number: int, digest: str) -> str:
        """Note the sum of a round that is about to be opened; return the one that was noted first."""
        return self._first(self.path / f"sum-{number}", digest)

    def first_sent(self, fingerprint: str, where: str) -> str:
        """Note what an update is about to be encrypted for; return what was noted for it first."""
        return self._first(self._sent / fingerprint, where)

    def forget_sent(self, fingerprint: str) -> None:
        """Let an update be sent again: a sum that this site has verified is without it."""
        (self._sent / fingerprint).unlink(missing_ok=True)

    @property
    def _submission(self) -> Path:
        return self.path / "submission"

    def _first(self, path: Path, text: str) -> str:
        try:
            create_once(path, text.encode())
            sync_directory(path.parent)
            return path.read_text()
        except OSError as error:
            raise file_trouble(error, f"{path} cannot be written") from error

    def _damaged(self, path: Path) -> ConfigError:
        return ConfigError(
            Reason.BAD_CONFIG,
            f"{path}: expected what this site keeps of a run, got a damaged file",
            f"move {self.path} away; this site then takes part in the next run, not in this one",
        )


def _member(name: str, place: int) -> str:
    """Return the name under which a tensor is stored: its own, but for two that are taken."""
    return name if name not in (_META, "file") else f"{_META}-{place}"
