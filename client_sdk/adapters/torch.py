"""PyTorch modules and gradients. Needs the extra `torch`.

What becomes of a module's `state_dict`:

* float parameters and float buffers (BatchNorm's running mean and variance) are averaged;
* integers and booleans (`num_batches_tracked`, masks) stay local; extra state is the module's own: it is not touched,
  nor kept in checkpoints;
* a parameter that occurs under several names (tied weights) travels once, under the first;
* bfloat16 and eight bits travel as float32, which holds them exactly, and are rounded back when loaded.

FedBN is `TorchAdapter(exclude=["bn*", "*running_*"])`: those layers stay personal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.adapters.base import Adapter, Patterns, Tensors, missing_extra
from he_agg.errors import InputError, Reason

try:
    import torch
except ImportError as error:
    raise missing_extra("torch", "torch") from error

__all__ = ["TorchAdapter", "TorchGradients", "check_tensor", "own_tensors"]


class TorchAdapter(Adapter[torch.nn.Module]):
    """For `torch.nn.Module`. `load` writes in place, under `no_grad`.

    Args:
        include: patterns over the names of the `state_dict`.
        copy_from_device: copy tensors of a GPU to the CPU and back, instead of refusing them.
        names: `statistics` and `variances`, besides float buffers and what is known by its name.
    """

    def __init__(
        self, include: Patterns = "*", exclude: Patterns = (), *, copy_from_device: bool = False, **names: Any
    ) -> None:
        super().__init__(include, exclude, **names)
        self._copy = copy_from_device

    def state(self, model: torch.nn.Module) -> Tensors:
        """Return every tensor of the `state_dict` that is there once."""
        own = own_tensors(model)
        for name, value in model.state_dict(keep_vars=True).items():
            if not isinstance(value, torch.Tensor) and not _is_extra(name) and not self._stays(name):
                raise InputError(
                    Reason.WRONG_DTYPE,
                    f"{name!r}: expected float tensors, got a {type(value).__name__}, as quantized layers pack them",
                    "federate the float model and quantize afterwards, or exclude it",
                )
        return self._read(own.items(), self._array)

    def write(self, model: torch.nn.Module, tensors: Mapping[str, NDArray[Any]]) -> torch.nn.Module:
        """Copy arrays into the module's tensors."""
        own = own_tensors(model)
        with torch.no_grad():
            for name, array in tensors.items():
                own[name].copy_(_tensor(array))
        return model

    def statistics_in(self, model: torch.nn.Module, names: Iterable[str]) -> frozenset[str]:
        """Pick the float buffers, and what was named."""
        shared, parameters = frozenset(names), {name for name, _ in model.named_parameters(remove_duplicate=False)}
        return (shared - parameters) | super().statistics_in(model, shared)

    def _array(self, name: str, tensor: torch.Tensor) -> NDArray[Any]:
        check_tensor(name, tensor, self._copy)
        tensor = tensor.detach()
        if tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64):
            tensor = tensor.float()
        # clone: never a view of the model's memory.
        array: NDArray[Any] = tensor.cpu().clone(memory_format=torch.contiguous_format).numpy()
        return array


class TorchGradients(TorchAdapter):
    """The gradients of a module's parameters instead of their values: after `loss.backward()`, for FedSGD.

    `load` sets each parameter's `.grad`, ready for `optimizer.step()`.
    """

    def state(self, model: torch.nn.Module) -> Tensors:
        """Return the gradient of every parameter that has one to have."""
        return self._read(((n, p) for n, p in model.named_parameters() if p.requires_grad), self._gradient)

    def _gradient(self, name: str, parameter: torch.Tensor) -> NDArray[Any]:
        check_tensor(name, parameter, self._copy)
        if parameter.grad is None:
            raise InputError(
                Reason.MISSING_TENSOR,
                f"parameter {name!r}: expected a gradient, it has none",
                "call loss.backward() first; exclude parameters that the loss does not reach, or freeze them "
                "(requires_grad_(False))",
            )
        return self._array(name, parameter.grad)

    def write(self, model: torch.nn.Module, tensors: Mapping[str, NDArray[Any]]) -> torch.nn.Module:
        """Set gradients."""
        parameters = dict(model.named_parameters())
        for name, array in tensors.items():
            parameter = parameters[name]
            parameter.grad = _tensor(array).to(dtype=parameter.dtype, device=parameter.device)
        return model

    def statistics_in(self, model: torch.nn.Module, names: Iterable[str]) -> frozenset[str]:  # noqa: ARG002
        """Pick nothing: buffers have no gradients."""
        return frozenset()

    def _warn(self, names: Iterable[str]) -> None:
        """Say nothing of factors: the mean of gradients is the gradient of the mean loss, whatever is multiplied."""


def check_tensor(name: str, tensor: Any, copy_from_device: bool) -> None:
    """Refuse a tensor that cannot be read as a NumPy array, saying what to do."""
    if torch.nn.parameter.is_lazy(tensor):
        raise InputError(
            Reason.MISSING_TENSOR,
            f"tensor {name!r}: expected values, the lazy module has none yet",
            "run one batch through the model first, at every site of the same shape",
        )
    device = tensor.device.type
    if device == "meta":
        raise InputError(
            Reason.MISSING_TENSOR,
            f"tensor {name!r}: expected values, it is on the meta device, which has none",
            'materialise the model first: `model.to_empty(device="cpu")` and load or draw its weights',
        )
    if device != "cpu" and not copy_from_device:
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"tensor {name!r}: expected it on the CPU, got device {device!r}",
            "call model.cpu() before and model.to(device) after, or use TorchAdapter(copy_from_device=True)",
        )
    if tensor.layout is not torch.strided:
        raise InputError(
            Reason.WRONG_DTYPE,
            f"tensor {name!r}: expected a dense tensor, got layout {tensor.layout}",
            "make it dense with .to_dense() (for gradients: nn.Embedding(sparse=False)), or exclude it",
        )
    if tensor.numel() and any(stride == 0 and n > 1 for stride, n in zip(tensor.stride(), tensor.shape, strict=True)):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"tensor {name!r}: expected memory for every value, got an expanded tensor, whose values share it",
            "make it whole with .contiguous() before it becomes a parameter or a buffer, or exclude it",
        )
    if tensor.is_quantized:
        raise InputError(
            Reason.WRONG_DTYPE,
            f"tensor {name!r}: expected float values, got a quantized tensor",
            "federate the float model and quantize afterwards, or exclude it",
        )
    if tensor.is_complex():
        raise InputError(
            Reason.WRONG_DTYPE,
            f"tensor {name!r}: expected real numbers, got {tensor.dtype}",
            "register torch.view_as_real(tensor) as the parameter instead, or exclude it",
        )
    if tensor.is_inference():
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"tensor {name!r}: expected one that can be written to, it was made in torch.inference_mode()",
            "build and load the model outside of inference_mode; torch.no_grad() is enough for evaluation",
        )


def own_tensors(model: Any) -> dict[str, torch.Tensor]:
    """Return the module's tensors by name, each once."""
    if not isinstance(model, torch.nn.Module):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected a torch.nn.Module, got {type(model).__name__}",
            "hand in the module itself, not its state_dict; for dicts of arrays use PytreeAdapter",
        )
    seen: set[int] = set()
    own = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, torch.Tensor) and not _is_extra(name) and id(value) not in seen:
            seen.add(id(value))
            own[name] = value
    return own


def _is_extra(name: str) -> bool:
    """Tell whether a name is that of a module's own extra state, which only the module can write back."""
    return name.rpartition(".")[2] == "_extra_state"


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    # A copy of its own: writable and contiguous, whatever came.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True))
