"""Open the part store of an aggregator: the one place that knows which."""

from __future__ import annotations

from service.settings import Settings
from service.store.parts.base import PartStore
from service.store.parts.directory import DirectoryParts

__all__ = ["open_parts"]


def open_parts(settings: Settings) -> PartStore:
    """Open the part store that the settings name. Nothing is made before something is put."""
    return DirectoryParts(settings.data_dir)
