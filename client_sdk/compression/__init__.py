"""Fewer bytes before encryption: few bits, common random masks, low-rank factors, all with error feedback.

::

    compression = RandomMask(0.1)
    plan = training_plan("stroke", model, compression=compression, ...)   # smaller submissions
    train(site, model, fit, compression=compression, ...)                 # the same at every site

What each saves and costs: docs/training.md.
"""

from client_sdk.compression.base import Compression, Grid
from client_sdk.compression.few_bits import FewBits
from client_sdk.compression.low_rank import LowRank
from client_sdk.compression.mask import RandomMask

__all__ = ["Compression", "FewBits", "Grid", "LowRank", "RandomMask"]
