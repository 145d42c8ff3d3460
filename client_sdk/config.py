"""Settings of a site or a trustee: a TOML file, keyword arguments, or both."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypedDict

from he_agg.errors import ConfigError, Reason

__all__ = ["MemberSettings", "Overrides", "Settings", "TrusteeSettings"]

_DAY_S = 86400


@dataclass(frozen=True, kw_only=True)
class MemberSettings:
    """Where a member's things are, and how patient it is.

    Attributes:
        url: the aggregator, https://... (plain http only on this machine).
        identity: the member's identity file.
        roster: the roster that this member trusts: its pin. A newer one that chains to it takes its place by itself.
        spool: directory for what it has to keep, encrypted submissions among it; beside the identity file if left out.
        security_log: where refused sums, records and rosters are noted; beside the identity file if left out.
        min_sites: fewest sites whose sum it opens or answers for; never fewer than roster and plan say.
        ca_file: certificates to trust instead of the system's, PEM.
        client_cert: a certificate to show to a proxy that asks for one, PEM.
        client_key: its key, if it is not in the same file, PEM.
        passphrase_file: what opens its secret files, if they have a passphrase. Mode 0600.
        passphrase_keyring: the same, as the name of an entry of service `he-agg` in the operating system's keyring.
        patience_s: how long the aggregator may be unreachable before a call gives up. Units: seconds.
        request_s: how long one request may take beside its bytes, whatever comes of an answer. Units: seconds.
        least_bytes_per_s: so much longer it may take for each byte: a slower transfer counts as broken.
        result_s: how long after a round's deadline its result is waited for. Units: seconds.
        pause_s: how long, at most, a pause or a moved deadline lengthens that. Units: seconds.
        round_s: how long, at most, a round that this site is invited to is waited for. Units: seconds.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("url", "identity", "roster")

    url: str
    identity: Path
    roster: Path
    spool: Path
    security_log: Path
    min_sites: int = 1
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    passphrase_file: Path | None = None
    passphrase_keyring: str | None = None
    patience_s: float = 300.0
    request_s: float = 60.0
    least_bytes_per_s: int = 20_000
    result_s: float = 3600.0
    pause_s: float = 7 * 86400.0
    round_s: float = 30 * 86400.0

    @classmethod
    def load(cls, config: str | Path | None, overrides: Mapping[str, Any]) -> Self:
        """Read a file and lay keyword arguments over it.

        Args:
            config: a TOML file; paths in it are relative to its directory. None: keyword arguments alone.
            overrides: settings by name; paths in them are relative to the working directory.

        Raises:
            ConfigError: the file cannot be read, or a setting is missing, unknown or of the wrong kind.
        """
        known = list(dict.fromkeys((*cls.REQUIRED, *(field.name for field in dataclasses.fields(cls)))))
        values: dict[str, Any] = {}
        where = "keyword arguments"
        if config is not None:
            path = Path(config)
            where = str(path)
            values = _checked(known, _read(path), path.parent, where)
        given = {k: v for k, v in overrides.items() if v is not None}
        values |= _checked(known, given, Path(), "keyword arguments")
        if "identity" in values:
            values.setdefault("spool", values["identity"].with_suffix(".spool"))
            values.setdefault("security_log", values["identity"].with_suffix(".security.log"))
        missing = [name for name in cls.REQUIRED if name not in values]
        if missing:
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"{where}: expected {', '.join(cls.REQUIRED)}; missing: {', '.join(missing)}",
                "such a file looks like: " + "; ".join(f'{name} = "..."' for name in cls.REQUIRED),
            )
        if "passphrase_file" in values and "passphrase_keyring" in values:
            raise ConfigError(
                Reason.BAD_CONFIG, f"{where}: expected passphrase_file or passphrase_keyring, got both", "remove one"
            )
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Settings(MemberSettings):
    """The settings of a site. Build it with `Settings.load`.

    Attributes:
        keystore: the group key of the current epoch, with the plan.
    """

    REQUIRED = ("url", "identity", "keystore", "roster")

    keystore: Path


@dataclass(frozen=True, kw_only=True)
class TrusteeSettings(MemberSettings):
    """The settings of a holder that is no site.

    Attributes:
        plan: the public half of the plan, as `he-agg holder join` has kept it.
    """

    REQUIRED = ("url", "identity", "plan", "roster")

    plan: Path


class Overrides(TypedDict, total=False):
    """The settings as keyword arguments of `Site.open`."""

    url: str
    identity: str | Path
    keystore: str | Path
    roster: str | Path
    spool: str | Path
    security_log: str | Path
    min_sites: int
    ca_file: str | Path
    client_cert: str | Path
    client_key: str | Path
    passphrase_file: str | Path
    passphrase_keyring: str
    patience_s: float
    request_s: float
    least_bytes_per_s: int
    result_s: float
    pause_s: float
    round_s: float


_PATHS = frozenset(
    {
        "identity",
        "keystore",
        "plan",
        "roster",
        "spool",
        "security_log",
        "ca_file",
        "client_cert",
        "client_key",
        "passphrase_file",
    }
)
_MOST = {"min_sites": 10_000, "least_bytes_per_s": 10**9}
_SECONDS = frozenset({"patience_s", "request_s", "result_s", "pause_s", "round_s"})
_MAX_FILE_BYTES = 2**16


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise ValueError(f"more than {_MAX_FILE_BYTES} bytes")
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(
            Reason.FILE_MISSING, f"{path} cannot be read: {error.strerror}", "give the path of the site's TOML file"
        ) from error
    except (ValueError, RecursionError) as error:  # tomllib knows no bounds of its own
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{path}: expected a TOML file, got something else: {error}",
            'its lines look like: url = "https://..."',
        ) from error


def _checked(known: Sequence[str], values: Mapping[str, Any], base: Path, where: str) -> dict[str, Any]:
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{where}: unknown setting{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}",
            f"known settings: {', '.join(known)}",
        )
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name in _SECONDS:
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 366 * _DAY_S:
                raise ConfigError(
                    Reason.BAD_CONFIG,
                    f"{where}: {name}: expected seconds from 0 to a year, got {value!r:.40}",
                    f"write a number without quotes, such as {name} = 60",
                )
            checked[name] = float(value)
        elif name in _MOST:
            if type(value) is not int or not 1 <= value <= _MOST[name]:
                raise ConfigError(
                    Reason.BAD_CONFIG,
                    f"{where}: {name}: expected a number from 1 to {_MOST[name]}, got {value!r:.40}",
                )
            checked[name] = value
        elif name in _PATHS:
            if not isinstance(value, str | Path) or not str(value):
                raise ConfigError(Reason.BAD_CONFIG, f"{where}: {name}: expected a path, got {type(value).__name__}")
            checked[name] = base / Path(value).expanduser()
        else:
            if not isinstance(value, str) or not value:
                raise ConfigError(Reason.BAD_CONFIG, f"{where}: {name}: expected text, got {type(value).__name__}")
            checked[name] = value
    return checked
