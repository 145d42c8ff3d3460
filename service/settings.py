"""Settings of the aggregator: each one with its unit and default, stated once, read from `HE_AGG_*` or given."""

from __future__ import annotations

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
    host: str = Field("127.0.0.1", description="Address to listen on. TLS belongs to a proxy in front.")
    port: int = Field(8470, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severe line to log.")
    max_wait_s: float = Field(60.0, ge=0, le=600, description="Longest long poll. Units: seconds.")
    recheck_s: float = Field(
        0.5,
        gt=0,
        le=60,
        description="How often deadlines and changes made by operator commands are looked at. Units: seconds.",
    )
    fold_retry_s: float = Field(5.0, gt=0, description="Pause after a failed attempt to fold. Units: seconds.")
    linger_s: float = Field(
        5.0, ge=0, le=60, description="How long the rest of a refused body is taken off the wire. Units: seconds."
    )
    busy_timeout_s: float = Field(20.0, gt=0, description="How long to wait for another writer. Units: seconds.")
    graceful_s: int = Field(10, ge=1, description="How long running requests may go on after SIGTERM. Units: seconds.")


def load_settings(**given: Any) -> Settings:
    """Settings from the environment, overridden by what is given and not None.

    Raises:
        ConfigError: a value out of its range.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise ConfigError(Reason.BAD_CONFIG, f"settings: {problems}", "see HE_AGG_* in the environment") from error
