"""The budget of a data set on disk: what was spent can only grow, and is on disk before anything is sent.

A text file of canonical JSON, one line per charge, each with the digest of the line before. A charge is appended and
fsynced before `charge` returns. A last line without its end is that of a charge that never returned: nothing was sent
on its strength, and it is overwritten by the next one. Anything else that does not fit is refused.

One ledger per data set, whatever federations it is used in. Keep it out of restores: an older copy would forget what
was spent, and no file can notice that by itself.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client_sdk.privacy.accountant import epsilon_of
from client_sdk.privacy.mechanism import ORDERS
from he_agg import canonical
from he_agg.errors import ConfigError, HeAggError, InputError, Reason, WireError
from he_agg.host.files import open_private, sync, sync_directory
from he_agg.host.locks import held

__all__ = ["BudgetSpentError", "Charge", "Ledger"]

VERSION = 1
MAX_LINE_BYTES = 2**16


class BudgetSpentError(InputError):
    """The privacy budget does not cover another round. Nothing was sent."""


@dataclass(frozen=True)
class Charge:
    """One line of a ledger.

    Attributes:
        what: federation and round that it paid for.
        digest: SHA-256 of the bytes that it allows to be sent.
        rdp: Renyi divergence at `ORDERS`.
    """

    what: str
    digest: str
    rdp: tuple[float, ...]


class Ledger:
    """The budget of one data set.

    Args:
        path: the file; made, mode 0600, if it does not exist.
        epsilon: what may be spent in all.
        delta: probability with which epsilon may not hold; well below one over the number of patients.

    Raises:
        ConfigError: the file cannot be used, was changed, or was made for another budget.
        InputError: a budget that cannot be.
    """

    def __init__(self, path: str | Path, *, epsilon: float, delta: float) -> None:
        if not (math.isfinite(epsilon) and epsilon > 0 and 0 < delta < 1):
            raise InputError(
                Reason.BAD_ARGUMENT, f"ledger: expected epsilon > 0 and 0 < delta < 1, got {epsilon!r} and {delta!r}"
            )
        self.path = Path(path)
        self.epsilon = float(epsilon)
        self.delta = float(delta)
        with self._locked() as descriptor:
            if self._read(descriptor) is None:
                self._append(descriptor, self._head())

    def __repr__(self) -> str:
        return f"Ledger({str(self.path)!r}, epsilon={self.epsilon:g}, delta={self.delta:g})"

    @property
    def charges(self) -> list[Charge]:
        """All charges, oldest first."""
        with self._locked() as descriptor:
            return self._known(descriptor)

    @property
    def spent(self) -> float:
        """The epsilon that is spent."""
        return epsilon_of(_total(self.charges), self.delta)

    def covers(self, rdp: NDArray[np.float64], rounds: int = 1) -> bool:
        """Tell whether so many more rounds fit in the budget.

        Args:
            rdp: what a round costs, `Mechanism.rdp()`.
        """
        return epsilon_of(_total(self.charges) + rounds * rdp, self.delta) <= self.epsilon

    def require(self, what: str, rdp: NDArray[np.float64]) -> None:
        """Refuse what the budget does not cover, without charging anything.

        Raises:
            BudgetSpentError: it would go beyond the budget.
        """
        self._refuse_beyond(what, self.charges, rdp)

    def charge(self, what: str, digest: str, rdp: NDArray[np.float64]) -> bool:
        """Pay for sending some bytes. They may be sent, as often as it takes, once this has returned.

        Args:
            digest: SHA-256 of the bytes, hex.

        Returns:
            Whether something was charged: False for bytes that are paid for already.

        Raises:
            BudgetSpentError: it would go beyond the budget; nothing is charged.
            ConfigError: the file cannot be written or is damaged.
        """
        canonical.check_hex(digest, 32, "digest")
        if len(rdp) != len(ORDERS) or not np.isfinite(rdp).all() or not (np.asarray(rdp) > 0).all():
            raise InputError(Reason.BAD_ARGUMENT, f"charge: expected {len(ORDERS)} positive costs, got something else")
        with self._locked() as descriptor:
            known = self._known(descriptor)
            if any((charge.what, charge.digest) == (what, digest) for charge in known):
                return False
            self._refuse_beyond(what, known, rdp)
            line = {
                "what": what,
                "digest": digest,
                "rdp": [canonical.decimal(float(value)) for value in rdp],
                "previous": self._previous,
            }
            self._append(descriptor, canonical.encode(line))
            return True

    def _refuse_beyond(self, what: str, known: list[Charge], rdp: NDArray[np.float64]) -> None:
        after = epsilon_of(_total(known) + rdp, self.delta)
        if after > self.epsilon:
            raise BudgetSpentError(
                Reason.FORBIDDEN,
                f"privacy budget: expected at most epsilon {self.epsilon:g} at delta {self.delta:g}, with {what} "
                f"it would be {after:.4g} after {len(known)} rounds; nothing was sent",
                "stop here, or let those who are responsible for the data decide on another budget",
            )

    def _head(self) -> bytes:
        return canonical.encode(
            {
                "v": VERSION,
                "epsilon": canonical.decimal(self.epsilon),
                "delta": canonical.decimal(self.delta),
                "orders": list(ORDERS),
            }
        )

    @contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            descriptor = open_private(self.path, os.O_RDWR | os.O_CREAT)
            try:
                with held(descriptor):
                    yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"ledger {self.path}: {error.strerror}; nothing was charged or sent",
                "see that the file can be written and synced",
            ) from error

    def _known(self, descriptor: int) -> list[Charge]:
        known = self._read(descriptor)
        if known is None:
            raise self._damaged("it was emptied while in use")
        return known

    def _read(self, descriptor: int) -> list[Charge] | None:
        """Read all charges; None for a file without even a first line. Remembers where the next line goes."""
        os.lseek(descriptor, 0, os.SEEK_SET)
        data = os.read(descriptor, os.fstat(descriptor).st_size)
        complete = data.rfind(b"\n") + 1
        self._end = complete
        lines = data[:complete].splitlines()
        if not lines:
            if not self._head().startswith(data):
                raise self._damaged("it is another file")
            return None
        if lines[0] != self._head():
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"ledger {self.path}: expected one for epsilon {self.epsilon:g} at delta {self.delta:g}, got another "
                "budget or another version",
                "a budget is not changed after the fact; open it with the numbers it was made with",
            )
        charges = []
        self._previous = hashlib.sha256(lines[0]).hexdigest()
        for number, line in enumerate(lines[1:], 2):
            try:
                fields = canonical.Fields(canonical.parse(line, MAX_LINE_BYTES), "charge")
                what, digest = fields.string("what"), fields.hex("digest", 32)
                costs = fields.array("rdp", len(ORDERS))
                previous = fields.hex("previous", 32)
                fields.end()
                rdp = tuple(canonical.parse_decimal(str(cost)) for cost in costs)
            except (WireError, HeAggError) as error:
                raise self._damaged(f"line {number} cannot be read") from error
            if previous != self._previous or len(rdp) != len(ORDERS) or min(rdp) <= 0:
                raise self._damaged(f"line {number} does not follow the one before")
            charges.append(Charge(what, digest, rdp))
            self._previous = hashlib.sha256(line).hexdigest()
        return charges

    def _append(self, descriptor: int, line: bytes) -> None:
        os.ftruncate(descriptor, self._end)  # what is behind belongs to a charge that never returned
        data = line + b"\n"
        try:
            os.lseek(descriptor, self._end, os.SEEK_SET)
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)
        except OSError:
            # What may not be on disk must not look paid for: it is written again, not synced again.
            with suppress(OSError):
                os.ftruncate(descriptor, self._end)
            raise
        sync_directory(self.path.parent)

    def _damaged(self, how: str) -> ConfigError:
        return ConfigError(
            Reason.BAD_CONFIG,
            f"ledger {self.path}: {how}; nothing is charged on top of it",
            "restore the newest copy, and count what was sent since as spent",
        )


def _total(charges: list[Charge]) -> NDArray[np.float64]:
    return np.sum([charge.rdp for charge in charges], axis=0) if charges else np.zeros(len(ORDERS))
