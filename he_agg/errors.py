"""The one exception tree of he-agg, and the closed set of reasons.

::

    HeAggError                     base, never raised itself
    ├─ InputError (ValueError)     what the caller handed in: tensors, weight, arguments
    ├─ PlanError (ValueError)      parameters refused, or a plan that is not the expected one
    ├─ WireError (ValueError)      bytes that are not what FORMAT.md says
    ├─ KeystoreError               key and identity files: permissions, contents, another key
    ├─ DecryptionError             a sum that did not open to what it must be; nothing was released
    ├─ ProtocolError               the aggregator refused, or answered what the protocol does not allow
    ├─ TransportError              the aggregator could not be reached; trying again may help
    └─ ConfigError                 settings and files of settings

Messages name what was expected, what came and the ids involved. They never hold plaintext, keys, or statistics
of either: an error text ends up in logs and tickets.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "ConfigError",
    "DecryptionError",
    "HeAggError",
    "InputError",
    "KeystoreError",
    "PlanError",
    "ProtocolError",
    "Reason",
    "TransportError",
    "WireError",
    "counted",
]


class Reason(StrEnum):
    """Why something was refused. Stable: programs and problem documents carry these words."""

    # tensors and weights
    NON_FINITE = "non-finite"
    BEYOND_CLIP = "beyond-clip"
    MISSING_TENSOR = "missing-tensor"
    EXTRA_TENSOR = "extra-tensor"
    WRONG_SHAPE = "wrong-shape"
    WRONG_DTYPE = "wrong-dtype"
    WEIGHT_OUT_OF_RANGE = "weight-out-of-range"
    BAD_ARGUMENT = "bad-argument"
    # plans
    INSECURE_PARAMETERS = "insecure-parameters"
    NO_HEADROOM = "no-headroom"
    BAD_PLAN = "bad-plan"
    PLAN_MISMATCH = "plan-mismatch"
    LAYOUT_MISMATCH = "layout-mismatch"
    # bytes
    TRUNCATED = "truncated"
    TRAILING_BYTES = "trailing-bytes"
    BAD_MAGIC = "bad-magic"
    BAD_VERSION = "bad-version"
    BAD_FIELD = "bad-field"
    BAD_PADDING = "bad-padding"
    BAD_DIGEST = "bad-digest"
    RESIDUE_OUT_OF_RANGE = "residue-out-of-range"
    TOO_LARGE = "too-large"
    NOT_CANONICAL = "not-canonical"
    SECRET_REFUSED = "secret-refused"  # noqa: S105 - a reason, no password
    # keys and identities
    KEY_MISMATCH = "key-mismatch"
    NOT_MY_EPOCH = "not-my-epoch"
    UNSAFE_PERMISSIONS = "unsafe-permissions"
    KEYSTORE_CORRUPT = "keystore-corrupt"
    WRONG_PASSPHRASE = "wrong-passphrase"  # noqa: S105 - a reason, no passphrase
    FILE_MISSING = "file-missing"
    FILE_EXISTS = "file-exists"
    # signatures and rosters
    BAD_SIGNATURE = "bad-signature"
    CLOCK_SKEW = "clock-skew"
    ROSTER_EXPIRED = "roster-expired"
    ROSTER_MISMATCH = "roster-mismatch"
    NOT_YET_MEMBER = "not-yet-member"
    NO_LONGER_MEMBER = "no-longer-member"
    CHAIN_MISMATCH = "chain-mismatch"
    RECEIPT_BROKEN = "receipt-broken"
    REPEATED_UPDATE = "repeated-update"
    # opening a sum
    SUM_REJECTED = "sum-rejected"
    OFF_GRID = "off-grid"
    SUM_OUT_OF_RANGE = "sum-out-of-range"
    COUNT_MISMATCH = "count-mismatch"
    # rounds and requests
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    UNKNOWN_FEDERATION = "unknown-federation"
    UNKNOWN_SITE = "unknown-site"
    UNKNOWN_ROUND = "unknown-round"
    UNKNOWN_ROSTER = "unknown-roster"
    UNKNOWN_EPOCH = "unknown-epoch"
    UNKNOWN_SUBMISSION = "unknown-submission"
    UNKNOWN_PART = "unknown-part"
    ALREADY_EXISTS = "already-exists"
    NOT_INVITED = "not-invited"
    ROUND_CLOSED = "round-closed"
    ROUND_FAILED = "round-failed"
    SECOND_SUBMISSION = "second-submission"
    INCOMPLETE = "incomplete"
    SUM_NOT_READY = "sum-not-ready"
    SUM_GONE = "sum-gone"
    BUSY = "busy"
    TOO_MANY_REQUESTS = "too-many-requests"
    TOO_SLOW = "too-slow"
    STORAGE_FULL = "storage-full"
    QUOTA_EXCEEDED = "quota-exceeded"
    LENGTH_REQUIRED = "length-required"
    BAD_REQUEST = "bad-request"
    BAD_ANSWER = "bad-answer"
    UNREACHABLE = "unreachable"
    BAD_CONFIG = "bad-config"
    INTERNAL = "internal"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, for people: "1 coordinator", "2 coordinators"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class HeAggError(Exception):
    """Base of every error that he-agg raises on purpose.

    Args:
        reason: one of the closed set, for programs.
        message: one sentence for people: what was expected, what came, which ids.
        hint: what to do next, for people; a traceback in Python ends with it.
        shell: the same in the words of the command line, where the hint has Python in it.
    """

    def __init__(self, reason: Reason, message: str, hint: str = "", shell: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.hint = hint
        self.shell = shell or hint
        if hint:
            self.add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[type[HeAggError], tuple[Reason, str, str, str]]:
        # The default would rebuild from `args` alone and fail: errors cross process pools and threads.
        return type(self), (self.reason, self.message, self.hint, self.shell)


class InputError(HeAggError, ValueError):
    """What the caller handed in cannot be encrypted as it is."""


class PlanError(HeAggError, ValueError):
    """A plan, or two plans, that must not be used."""


class WireError(HeAggError, ValueError):
    """Bytes that are not what FORMAT.md says. Any bytes whatsoever give a value or this."""


class KeystoreError(HeAggError):
    """A key or identity file that must not be used."""


class DecryptionError(HeAggError):
    """A sum that did not open to what it must be. No plaintext was released."""


class ProtocolError(HeAggError):
    """The aggregator refused a request, or answered what the protocol does not allow."""


class TransportError(HeAggError):
    """The aggregator could not be reached, or the connection broke. Trying again may help."""


class ConfigError(HeAggError):
    """Settings that do not make sense, or a settings file that cannot be read."""
