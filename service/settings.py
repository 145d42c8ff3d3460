"""Settings of the aggregator: each one with its unit and default, stated once, read from `HE_AGG_*` or given."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from he_agg.errors import ConfigError, Reason

__all__ = ["Settings", "load_settings"]


class Settings(BaseSettings):
    """Everything an operator can turn. What a plan says (part length, deadline, quorum) is not repeated here."""

    model_config = SettingsConfigDict(env_prefix="HE_AGG_", frozen=True, extra="forbid")

    data_dir: Path = Field(Path("he-agg-data"), description="Directory of the store, on a local disk.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; by default a SQLite file in `data_dir`.")
    parts: str | None = Field(
        None,
        pattern=r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._-]+)*$",
        description="Object store of parts: s3://bucket/prefix; by default files in `data_dir`. Where it is and the "
        "credentials come from the usual AWS_* variables.",
    )
    parts_timeout_s: float = Field(
        60.0,
        ge=1,
        le=600,
        description="How long one act on the object store may take, what is tried again included. Units: seconds.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; plain HTTP on loopback only.")
    port: int = Field(8470, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    processes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="How many processes serve behind that address. By default one; over PostgreSQL one for each core, "
        "but four at most. Several need PostgreSQL.",
    )
    work: bool = Field(
        True, description="Fold and remove as well as serve; otherwise `he-agg work` has to run somewhere."
    )
    tls_cert: Path | None = Field(
        None, description="Certificate and its chain, PEM. With it, the aggregator speaks TLS."
    )
    tls_key: Path | None = Field(None, description="The certificate's key, PEM, without passphrase.")
    tls_client_ca: Path | None = Field(
        None, description="Only clients whose certificate comes from these authorities get in, PEM."
    )
    self_signed: bool = Field(
        False, description="Speak TLS with a certificate of the aggregator's own, made for the host of `url`."
    )
    url: str | None = Field(
        None,
        pattern=r"^https://[^/?#@\s]+(/[^?#\s]*)?$",
        description="Where sites reach this aggregator: https://host[:port]. It goes to the coordinator with the "
        "aggregator's public key, and to the sites in the start file.",
    )
    behind_tls_proxy: bool = Field(False, description="A proxy in front does TLS: plain HTTP on any address.")
    operator_port: int | None = Field(
        None, ge=0, le=65535, description="Port of the operators' page and its metrics; none by default, 0 a free one."
    )
    operator_host: str = Field(
        "127.0.0.1", description="Its address; another than loopback only with an `operator_url`."
    )
    operator_url: str | None = Field(
        None,
        pattern=r"^https://[^/?#@\s]+(/[^?#\s]*)?$",
        description="Where browsers reach that page, if a proxy does TLS for it: https://host/path.",
    )
    oidc_issuer: str | None = Field(
        None,
        pattern=r"^(https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/])[^?#@\s]+$",
        description="Identity provider by which people sign in to the operators' page, instead of by links: "
        "https://..., or http:// on this machine; needs the extra `oidc`.",
    )
    oidc_client_id: str | None = Field(None, description="The page's client id there.")
    oidc_client_secret_file: Path | None = Field(
        None, description="File with the client's secret; without it, PKCE alone protects the code."
    )
    oidc_operators: str | None = Field(
        None, description="Group whose members may look, pause, resume and skip on that page."
    )
    oidc_viewers: str | None = Field(None, description="Group whose members may look at that page.")
    oidc_groups_claim: str = Field(
        "groups", description="Claim that names a person's groups; with dots for one inside of others."
    )
    oidc_scopes: str = Field("openid profile", description="What the provider is asked for, with spaces between.")
    oidc_session_s: float = Field(
        8 * 3600.0, gt=0, le=24 * 3600, description="How long a sign-in lasts. Units: seconds."
    )
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port that has /metrics and nothing else; none by default, 0 takes a free one.",
    )
    metrics_host: str = Field(
        "127.0.0.1", description="Its address: one that Prometheus reaches, and sites do not. Plain HTTP."
    )
    traces: bool = Field(
        False, description="Send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra `otlp`."
    )
    audit_log: str | None = Field(
        None,
        description="Where audit events go: syslog://host:514 (UDP), syslog+tcp://host:514, syslog+tls://host:6514, "
        "syslog+unix:///dev/log, file:///path, or otlp:https://host/v1/logs with the extra `otlp`; none by default.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe line to log.")
    max_wait_s: float = Field(60.0, ge=0, le=600, description="Longest long poll. Units: seconds.")
    recheck_s: float = Field(
        0.5,
        gt=0,
        le=60,
        description="How often deadlines and changes made by operator commands are looked at. Units: seconds.",
    )
    lease_s: float = Field(
        30.0, gt=0, description="After how much silence another replica takes over background work. Units: seconds."
    )
    sweep_s: float = Field(60.0, gt=0, description="How often abandoned uploads are looked for. Units: seconds.")
    upload_expiry_s: float = Field(
        86400.0,
        gt=0,
        description="After how much silence the parts of an upload without receipt are removed. Units: seconds.",
    )
    keep_sums: int = Field(
        5, ge=1, description="How many sums of a federation stay, unless it was created with another number."
    )
    keep_unopened_s: float = Field(
        7 * 86400.0,
        ge=0,
        description="How long the single submissions behind a sum stay while fewer than `min_sites` of its sites have "
        "said that they opened it and no later sum is there. They go earlier when the disk is full. Units: seconds.",
    )
    keep_dealings_s: float = Field(
        3600.0,
        ge=0,
        description="How long the dealings of a round stay after it was settled, for holders that come late, where "
        "one-time keys are split. Units: seconds.",
    )
    reserve_bytes: int = Field(
        256 * 2**20,
        ge=0,
        description="New submissions are refused when the disk would have less than this left. Units: bytes.",
    )
    federation_quota_bytes: int = Field(
        0, ge=0, description="Most bytes of submissions and sums per federation; 0 is no limit. Units: bytes."
    )
    site_quota_bytes: int = Field(
        0, ge=0, description="Most bytes of submissions per site; 0 is no limit. Units: bytes."
    )
    max_requests: int = Field(
        1000,
        ge=1,
        description="Requests at once, waiting ones included; more are answered 503. Nobody gets "
        "another one while it has as many as are free: one member has half of them at most.",
    )
    max_site_requests: int = Field(
        32, ge=1, description="Requests at once of one site, waiting ones included; more are answered 429."
    )
    max_uploads: int = Field(
        32,
        ge=1,
        description="Bodies held in memory at once; more wait their turn. Bounds memory: times the part length. "
        "Nobody gets another one while it has as many as are free: one member has half of them at most.",
    )
    upload_queue_s: float = Field(
        10.0, ge=0, description="How long a body waits its turn before it is answered 503. Units: seconds."
    )
    min_rate: int = Field(
        16 * 2**10, ge=0, description="A body that comes slower is answered 408; 0 is no limit. Units: bytes/second."
    )
    slow_grace_s: float = Field(
        10.0, ge=0, description="How much longer than `min_rate` allows a body may take. Units: seconds."
    )
    head_s: float = Field(
        10.0,
        gt=0,
        description="How long a connection may take for its TLS handshake, and then for the head of a request; longer "
        "ones are closed. Units: seconds.",
    )
    max_strangers: int = Field(
        64,
        ge=1,
        description="Connections of one address, or all together eight times as many, without a request of a member "
        "yet; each one more closes the oldest. A proxy is one address.",
    )
    repair_wait_s: float = Field(
        3600.0,
        ge=0,
        description="How long a closed round waits for a site to send a part again that was damaged in the store. "
        "Units: seconds.",
    )
    fold_threads: int = Field(
        default_factory=lambda: max(4, min(8, os.cpu_count() or 1)),
        ge=1,
        le=64,
        description="How many parts of a sum are computed at once: the disk's latencies overlap. By default one for "
        "each processor, but 4 to 8.",
    )
    running_sum_bytes: int = Field(
        2**29,
        ge=0,
        description="Memory for the sums of open rounds, to which parts are added as they arrive: 4 bytes for each "
        "value of a round. What does not fit is read again when the round closes; 0 keeps none. Units: bytes.",
    )
    made_sum_bytes: int = Field(
        2**27,
        ge=0,
        description="Memory for sums that were just made, from where sites fetch them for a minute. What does not fit "
        "is read from the store; 0 keeps none. Units: bytes.",
    )
    linger_s: float = Field(
        5.0, ge=0, le=60, description="How long the rest of a refused body is taken off the wire. Units: seconds."
    )
    busy_timeout_s: float = Field(20.0, gt=0, description="How long to wait for another writer. Units: seconds.")
    graceful_s: int = Field(10, ge=1, description="How long running requests may go on after SIGTERM. Units: seconds.")


_OTHER_VARIABLES = ("HE_AGG_CORE_DUMPS", "HE_AGG_FAILPOINT", "HE_AGG_TEST_")
"""What else the environment may say: no settings of an aggregator."""


def _problem(given: Mapping[str, object], where: list[str], found: Mapping[str, Any]) -> str:
    """Say what is wrong with a setting, by the name under which it was given."""
    field = Settings.model_fields.get(where[0]) if where else None
    if field is None:
        return str(found["msg"])
    by_option = given.get(where[0]) is not None
    name = f"--{where[0].replace('_', '-')}" if by_option else f"HE_AGG_{where[0].upper()}"
    if found["type"] == "string_pattern_mismatch":
        return f"{name}: expected another form; it is: {str(field.description).removesuffix('.')}"
    return f"{name}: {str(found['msg']).removeprefix('Value error, ')}"


def _check_environment() -> None:
    """Refuse a misspelt setting: without it, the aggregator would run on a default that nobody wants."""
    known = [f"HE_AGG_{name.upper()}" for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.upper().startswith("HE_AGG_") and name.upper() not in known and not name.startswith(_OTHER_VARIABLES):
            near = get_close_matches(name.upper(), known, 1)
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"the environment has {name}, which is no setting" + (f": {near[0]} is one" if near else ""),
                f"unset {name}" + (f", or set {near[0]}" if near else "; OPERATIONS.md lists the settings"),
            )


def load_settings(**given: Any) -> Settings:
    """Load settings from the environment, overridden by what is given and not None.

    Raises:
        ConfigError: a value that cannot be, a variable that looks like a setting and is none, or a system on which no
            aggregator runs.
    """
    if sys.platform == "win32":
        raise ConfigError(
            Reason.BAD_CONFIG,
            "an aggregator runs on Linux or macOS, not on Windows: how it keeps its files needs one of them",
            "give it a machine or a container of its own, or WSL; sites run on Windows",
        )
    _check_environment()
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        problems = "; ".join(_problem(given, [str(where) for where in one["loc"]], one) for one in found)
        raise ConfigError(
            Reason.BAD_CONFIG, problems, "see `he-agg serve --help`, and the settings in OPERATIONS.md"
        ) from error
