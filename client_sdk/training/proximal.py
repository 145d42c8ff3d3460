"""The proximal term of FedProx as a PyTorch scalar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from client_sdk.adapters.base import missing_extra

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch") from error

__all__ = ["proximal_term"]


def proximal_term(model: torch.nn.Module, start: Mapping[str, NDArray[Any]], mu: float) -> torch.Tensor:
    """Compute mu/2 times the squared distance of the shared parameters to where they started.

    Returns:
        A scalar that gradients flow through.
    """
    total: Any = torch.zeros(())
    if mu:
        for name, parameter in model.named_parameters():
            if name in start:
                there = torch.from_numpy(start[name]).to(dtype=parameter.dtype, device=parameter.device)
                total = total + ((parameter - there) ** 2).sum().to(total.device)
    scaled: torch.Tensor = total * (mu / 2)
    return scaled
