"""Open the part store of an aggregator: the one place that knows which."""

from __future__ import annotations

from he_agg.errors import ConfigError, Reason
from service.settings import Settings
from service.store.parts.base import PartStore
from service.store.parts.directory import DirectoryParts

__all__ = ["open_parts"]


def open_parts(settings: Settings) -> PartStore:
    """Open the part store that the settings name. Nothing is made before something is put.

    Raises:
        ConfigError: it cannot be used from here.
    """
    if settings.parts is not None:
        # Its client is an extra, and brings threads of its own: never before a process has forked.
        try:
            from service.store.parts.s3 import S3Parts
        except ModuleNotFoundError as error:
            raise ConfigError(
                Reason.BAD_CONFIG, "an object store needs the extra `s3`", "pip install 'he-agg[server,s3]'"
            ) from error
        return S3Parts(settings)
    return DirectoryParts(settings.data_dir)
