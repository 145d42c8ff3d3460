"""PyTorch's modules and gradients on awkward tensors, as the models of other frameworks in adapters.py."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from client_sdk.adapters import TorchAdapter, TorchGradients, adapter_for
from tests.reference.adapters import SHAPES, Leaf, averaged, numbers, sites, without


def torch_model(torch, rng, n):
    """A module of awkward tensors, at n sites; what they are, by name; why it is refused, if it is."""
    nn, leaves, why = torch.nn, {}, ""
    modules = [nn.Module() for _ in range(n)]
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fnuz]
    for name in ("a", "b", "c", "d")[: int(rng.integers(1, 5))]:
        shape, buffer = SHAPES[int(rng.integers(0, 6))], rng.random() < 0.3
        dtype = dtypes[int(rng.choice(5, p=[0.4, 0.2, 0.15, 0.15, 0.1]))]
        own = [torch.from_numpy(numbers(rng, shape)).to(dtype) for _ in range(n)]
        layout = int(rng.integers(0, 4))
        for module, tensor in zip(modules, own, strict=True):
            if layout == 1 and tensor.ndim > 1:
                tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
            elif layout == 2 and tensor.ndim:
                tensor = torch.stack([tensor, tensor], -1)[..., 0]
            if buffer:
                module.register_buffer(name, tensor)
            else:
                module.register_parameter(name, nn.Parameter(tensor, requires_grad=rng.random() < 0.7))
        leaves[name] = Leaf([t.double().numpy() for t in own], "statistic" if buffer else "weight")
    if rng.random() < 0.5:
        norms = [nn.BatchNorm1d(2, affine=False) for _ in range(n)]
        for module, norm in zip(modules, norms, strict=True):
            module.norm = norm
            for _ in range(int(rng.integers(0, 3))):
                norm(torch.from_numpy(rng.normal(size=(4, 2))).float())
        leaves["norm.running_mean"] = Leaf([m.running_mean.double().numpy().copy() for m in norms], "statistic")
        leaves["norm.running_var"] = Leaf([m.running_var.double().numpy().copy() for m in norms], "variance")
        leaves["norm.num_batches_tracked"] = Leaf([m.num_batches_tracked.numpy().copy() for m in norms], "own")
    if rng.random() < 0.3:
        for module in modules:
            module.tied = nn.Linear(2, 2, bias=False)
            module.tied.weight = nn.Parameter(torch.from_numpy(rng.normal(size=(2, 2))).float())
            module.also = nn.Linear(2, 2, bias=False)
            module.also.weight = module.tied.weight
        leaves["tied.weight"] = Leaf([m.tied.weight.detach().double().numpy().copy() for m in modules])
    for module in modules:
        module.register_buffer("mask", torch.from_numpy(rng.random(3) < 0.5))
        module.register_buffer("not_kept", torch.zeros(2), persistent=False)
        module.always = nn.Parameter(torch.from_numpy(rng.normal(size=2)))
    leaves["mask"] = Leaf([m.mask.numpy().copy() for m in modules], "own")
    leaves["always"] = Leaf([m.always.detach().numpy().copy() for m in modules])
    if rng.random() < 0.15:
        odd = {
            "complex numbers": lambda: nn.Parameter(torch.zeros(2, dtype=torch.complex64)),
            "a sparse tensor": lambda: nn.Parameter(torch.zeros(2, 2).to_sparse()),
            "a tensor without memory": lambda: nn.Parameter(torch.zeros(2, device="meta")),
            "a lazy parameter": lambda: nn.parameter.UninitializedParameter(),
            "a quantized tensor": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8),
            "memory that is shared by its own values": lambda: torch.zeros(1).expand(3),
        }
        why = str(rng.choice(list(odd)))
        for module in modules:
            value = odd[why]()
            module.odd = value if isinstance(value, nn.Parameter) else None
            if not isinstance(value, nn.Parameter):
                del module.odd
                module.register_buffer("odd", value)
    return modules, leaves, why


def torch_models(rng):
    """PyTorch: parameters and buffers of all float dtypes, tied, strided, statistics, own state."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    n = sites(rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own about quantization
        models, leaves, why = torch_model(torch, rng, n)
    dtypes = {name: t.dtype for name, t in models[0].state_dict(keep_vars=True).items()}

    def read(module):
        assert {name: t.dtype for name, t in module.state_dict(keep_vars=True).items()} == dtypes
        return {
            k: v.detach().double().numpy().copy() for k, v in module.state_dict(keep_vars=True).items() if k != "odd"
        }

    for leaf_name, leaf in leaves.items():
        if leaf.what != "own":
            leaf.values = [Rounded(v, torch, dtypes[leaf_name]) for v in leaf.values]
    adapter = adapter_for(models[0])
    assert type(adapter) is TorchAdapter
    without(rng, adapter, TorchAdapter(exclude="odd"), models, leaves, read, why)


class Rounded(np.ndarray):
    """A float64 array that remembers which of torch's dtypes it came from."""

    rounds: Any

    def __new__(cls, values, torch, dtype):
        array = np.asarray(values).view(cls)
        array.rounds = lambda wide: torch.from_numpy(np.array(wide)).to(dtype).double().numpy()
        return array


def torch_gradients(rng):
    """The gradients of a loss, averaged, against autograd's own of the weighted loss within the grid."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    n, d = sites(rng), int(rng.integers(1, 4))
    models = []
    for _ in range(n):
        model = torch.nn.Sequential(torch.nn.Linear(d, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
        model[0].bias.requires_grad_(False)
        model(torch.from_numpy(rng.normal(size=(6, d))).float()).square().sum().backward()
        models.append(model)
    names = ["0.weight", "1.weight", "1.bias", "2.weight", "2.bias"]
    leaves = {k: Leaf([dict(m.named_parameters())[k].grad.double().numpy().copy() for m in models]) for k in names}
    for leaf in leaves.values():
        leaf.values = [Rounded(v, torch, torch.float32) for v in leaf.values]
    averaged(
        rng, TorchGradients(), models, leaves,
        lambda m: {k: p.grad.double().numpy() for k, p in m.named_parameters() if p.grad is not None},
    )  # fmt: skip


CASES = {f.__name__: f for f in (torch_models, torch_gradients)}
