"""Low-rank adapters of PyTorch models, as PEFT puts them in: of the whole model only these travel. Needs `torch`.

PEFT itself is not imported: layers are known by the names of their tensors, `lora_A` and `lora_B`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from client_sdk.adapters.base import Patterns, Tensors, missing_extra
from client_sdk.adapters.factors import pairs_in
from he_agg.errors import InputError, Reason

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch") from error

from client_sdk.adapters.torch import TorchAdapter, own_tensors

__all__ = ["PeftAdapter"]

_WITH = " with A "
"""What comes between the name of B and the digest of the A that it belongs to."""
_OTHERS = ("hada_", "lokr_", "vera_lambda_", "lora_E", "lora_magnitude_vector", "oft_R", "boft_R")
"""Trainable tensors of other adapters, in which what the model adds is not linear, or has other factors."""


class PeftAdapter(TorchAdapter):
    """For models with LoRA layers: averages what is trained, and not the base model.

    A layer adds s * B @ A to its weight. There is more than one mean of such layers, so it is asked for by name:

    * `"b"`: A is frozen (`freeze`) and the same at every site, and B is averaged: what the layers add is averaged
      exactly, and the fewest bytes travel. The names of the tensors carry a digest of A, so a site with another A does
      not fit the plan, and an A that was trained all the same is refused.
    * `"product"`: whole weights with s * B @ A in them are averaged, exactly, and as many bytes travel as the weights
      have. When the mean is loaded, its difference from the base weight is factorised again, to the rank that the
      layer has, and what the rank does not hold goes to the base weight. Every site may have an A of its own. The
      factors are new after every round: start the optimizer afresh.
    * `"factors"`: A and B are averaged apart, as is often done. What the layers add is then not the mean of what they
      added (docs/adapters.md).

    What is trained beside them (`modules_to_save`, biases) and buffers are averaged as TorchAdapter does.

    Args:
        average: which mean.
        include: patterns over the names.
        exclude: patterns of what stays local.
        copy_from_device: as for TorchAdapter.
        names: as for TorchAdapter.
    """

    def __init__(
        self,
        average: Literal["b", "product", "factors"],
        include: Patterns = "*",
        exclude: Patterns = (),
        *,
        copy_from_device: bool = False,
        **names: Any,
    ) -> None:
        super().__init__(include, exclude, copy_from_device=copy_from_device, **names)
        if average not in ("b", "product", "factors"):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"PeftAdapter: expected 'b', 'product' or 'factors' to average, got {average!r}",
                "'b' is exact and small (freeze A first); docs/adapters.md says what each means",
            )
        self._average = average

    def freeze(self, model: torch.nn.Module) -> torch.nn.Module:
        """Freeze the A of every layer, so that B alone is trained. Draw them from the same seed at every site."""
        own = own_tensors(model)
        for name, _ in _pairs(own):
            own[name].requires_grad_(False)
        return model

    def state(self, model: torch.nn.Module) -> Tensors:
        """Return what is trained, and buffers; of LoRA layers what is averaged."""
        return self._read(self._leaves(model), self._leaf)

    def write(self, model: torch.nn.Module, tensors: Mapping[str, NDArray[Any]]) -> torch.nn.Module:
        """Copy arrays into the model's tensors; factorise products again."""
        layers = {layer.name: layer for layer in self._layers(model)}
        plain = {}
        for name, array in tensors.items():
            if name in layers:
                layers[name].write(array)
            else:
                plain[name.split(_WITH)[0]] = array
        return super().write(model, plain)

    def statistics_in(self, model: torch.nn.Module, names: Iterable[str]) -> frozenset[str]:
        """Pick the float buffers, and what was named."""
        full = {name.split(_WITH)[0]: name for name in names}
        return frozenset(full[name] for name in super().statistics_in(model, full))

    def _warn(self, names: Iterable[str]) -> None:
        """Say nothing: it was asked for by name."""

    def _leaves(self, model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
        own = own_tensors(model)
        pairs = list(_pairs(own))
        if not pairs:
            raise InputError(
                Reason.MISSING_TENSOR,
                "PeftAdapter: expected a model with layers that have lora_A and lora_B, got none",
                "put them in first: `peft.get_peft_model(model, peft.LoraConfig(...))`; whole models take TorchAdapter",
            )
        trained = {n: t for n, t in own.items() if not isinstance(t, torch.nn.Parameter) or t.requires_grad}
        if self._average != "factors":
            _check_linear(trained)
        names: dict[str, str] = {}
        layers = {layer.b: layer for layer in self._layers(model)}
        for a, b in pairs:
            if self._average == "b" and b in trained:
                if a in trained:
                    raise InputError(
                        Reason.BAD_ARGUMENT,
                        f"tensor {a!r}: expected it frozen, since its B alone is averaged; it is trained",
                        "call `adapter.freeze(model)` before the optimizer is made, or average 'product'",
                    )
                names[b] = f"{b}{_WITH}{_digest(self._array(a, own[a]))}"
            elif self._average == "product":
                trained.pop(a, None)
        for name, tensor in trained.items():
            yield (layers[name].name, layers[name]) if name in layers else (names.get(name, name), tensor)

    def _leaf(self, name: str, value: Any) -> NDArray[Any]:
        return value.merged() if isinstance(value, _Layer) else self._array(name, value)

    def _layers(self, model: torch.nn.Module) -> Iterator[_Layer]:
        """Yield the layers whose product is averaged."""
        if self._average != "product":
            return
        own, seen = own_tensors(model), set()
        for a, b in _pairs(own):
            if not own[b].requires_grad:
                continue
            layer = _layer(model, own, a, b, self._array)
            if layer.name in seen:
                raise _no_product(b, "one adapter that is trained in a layer, got two", "train one at a time")
            seen.add(layer.name)
            yield layer


@dataclass(frozen=True)
class _Layer:
    """A weight and the factors of what is added to it.

    Attributes:
        name: of the weight.
        b: name of B.
        turned: whether the weight is the transpose of B @ A.
    """

    name: str
    b: str
    weight: torch.Tensor
    factors: tuple[torch.Tensor, torch.Tensor]
    scale: float
    turned: bool
    read: Any

    def merged(self) -> NDArray[Any]:
        """Return the weight with the product in it."""
        base = self.read(self.name, self.weight)
        return np.asarray((base + self._added()).astype(base.dtype))

    def write(self, array: NDArray[Any]) -> None:
        """Set weight and factors so that the weight with the product in it is this one."""
        if np.array_equal(array, self.merged()):
            return  # already there: the first time, when B is 0 and A is what training starts from
        a, b = self.factors
        rank = a.shape[0]
        target = array.astype(np.float64)
        difference = (target - self.read(self.name, self.weight)) / self.scale
        u, s, v = np.linalg.svd(difference.T if self.turned else difference, full_matrices=False)
        own = min(rank, s.size)
        tall, wide = np.zeros(tuple(b.shape)), np.zeros(tuple(a.shape))
        tall[:, :own], wide[:own] = u[:, :own] * s[:own], v[:own]
        with torch.no_grad():
            a.copy_(torch.from_numpy(wide))
            b.copy_(torch.from_numpy(tall))
            self.weight.copy_(torch.from_numpy(target - self._added()))

    def _added(self) -> NDArray[np.float64]:
        a, b = (self.read(self.b, factor).astype(np.float64) for factor in self.factors)
        product = self.scale * (b @ a)
        return np.asarray(product.T if self.turned else product)


def _pairs(own: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str]]:
    for a, b in pairs_in(own):
        if "lora_A" in a or "lora_embedding_A" in a:
            yield a, b


def _layer(model: torch.nn.Module, own: Mapping[str, torch.Tensor], a: str, b: str, read: Any) -> _Layer:
    """Find the weight that a product is added to.

    Raises:
        InputError: it cannot be averaged as a product.
    """
    embedding = "lora_embedding_A" in a
    stem, _, adapter = a.partition(".lora_embedding_A." if embedding else ".lora_A.")
    module = model.get_submodule(stem)
    name, weight = f"{stem}.base_layer.weight", own.get(f"{stem}.base_layer.weight")
    scale = getattr(module, "scaling", {}).get(adapter.split(".")[0])
    if weight is None or scale is None:
        raise _no_product(b, "a layer with base_layer.weight and scaling, as PEFT's have", "average 'b' with A frozen")
    if not weight.is_floating_point():
        raise _no_product(b, f"a base weight of floats, got {weight.dtype}", "average 'b' with A frozen")
    if getattr(module, "merged", False):
        raise _no_product(b, "adapters that are not merged", "call `model.unmerge_adapter()` first")
    shape = (own[b].shape[0], own[a].shape[1])
    turned = embedding or bool(getattr(module, "fan_in_fan_out", False))
    if own[a].ndim != 2 or tuple(weight.shape) != (shape[::-1] if turned else shape):
        raise _no_product(b, "a linear layer or an embedding, got one of other shapes", "average 'b' with A frozen")
    return _Layer(name, b, weight, (own[a], own[b]), float(scale), turned, read)


def _no_product(name: str, expected: str, hint: str) -> InputError:
    return InputError(Reason.BAD_ARGUMENT, f"tensor {name!r}: PeftAdapter('product') expected {expected}", hint)


def _check_linear(trained: Iterable[str]) -> None:
    for name in trained:
        if any(other in name for other in _OTHERS):
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"tensor {name!r}: expected plain LoRA layers, which have an exact mean; got one of another kind",
                "train LoRA (no DoRA, AdaLoRA, LoHa, LoKr, VeRA, OFT), or average 'factors', which is not exact",
            )


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(f"{array.dtype} {array.shape}".encode() + array.tobytes()).hexdigest()[:12]
