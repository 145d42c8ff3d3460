"""Fewer bits before encryption: common random masks, low-rank factors, few-bit values, all with error feedback."""

from client_sdk.compression.base import Compression, Grid

__all__ = ["Compression", "Grid"]
