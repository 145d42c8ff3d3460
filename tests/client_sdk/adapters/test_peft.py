"""LoRA layers as PEFT names them: what is averaged, exactly or on purpose, and what is refused.

Layers are PEFT's by name and shape, so that PEFT need not be installed here; test_peft_package.py has PEFT's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from client_sdk.adapters import PeftAdapter, PytreeAdapter, TorchAdapter, TorchGradients  # noqa: E402
from client_sdk.adapters.factors import FactorWarning  # noqa: E402
from client_sdk.training import simulate, train, training_plan  # noqa: E402
from he_agg.errors import InputError, PlanError  # noqa: E402

RANK = 4


class LoraLinear(nn.Module):
    def __init__(self, base, rank=RANK, alpha=8):
        super().__init__()
        self.base_layer = base
        base.requires_grad_(False)
        a, b = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(b.weight)
        self.lora_A, self.lora_B = nn.ModuleDict({"default": a}), nn.ModuleDict({"default": b})
        self.scaling = {"default": alpha / rank}

    def forward(self, x):
        return self.base_layer(x) + self.scaling["default"] * self.lora_B["default"](self.lora_A["default"](x))


class LoraEmbedding(nn.Module):
    def __init__(self, base, rank=RANK):
        super().__init__()
        self.base_layer = base
        base.requires_grad_(False)
        self.lora_embedding_A = nn.ParameterDict({"default": torch.zeros(rank, base.num_embeddings)})
        self.lora_embedding_B = nn.ParameterDict({"default": torch.randn(base.embedding_dim, rank)})
        self.scaling = {"default": 2.0}

    def forward(self, x):
        a, b = self.lora_embedding_A["default"], self.lora_embedding_B["default"]
        return self.base_layer(x) + self.scaling["default"] * nn.functional.embedding(x, a.T) @ b.T


class Network(nn.Module):
    """Two layers with adapters, and a head that is trained as a whole (`modules_to_save`)."""

    def __init__(self, seed=0, factors=0):
        super().__init__()
        torch.manual_seed(seed)
        base = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 1)
        torch.manual_seed(100 + factors)
        self.first, self.second, self.head = LoraLinear(base[0]), LoraLinear(base[1]), base[2]

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))


def weight_of(layer):
    """What a layer multiplies by, adapter and all."""
    eye = torch.eye(layer.base_layer.in_features, dtype=torch.float64)
    wide = layer.double()
    with torch.no_grad():
        found = (wide(eye) - wide(torch.zeros_like(eye))).T.numpy()
    layer.float()
    return found


def trained(model, seed, steps, lr=0.1, samples=64):
    """Some steps on data of a site's own, whose outcome depends on other columns at each site."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(samples, 16)).astype(np.float32))
    y = torch.sin(x @ torch.from_numpy(rng.normal(size=(16, 1)).astype(np.float32)))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
    return samples


def mean_of(adapter, models):
    tensors = [adapter.tensors(model) for model in models]
    return {
        name: np.mean([each[name] for each in tensors], axis=0, dtype=np.float64).astype(np.float32)
        for name in tensors[0]
    }


def off(adapter, factors, steps):
    """How far the weights of the averaged model are from the mean of weights, relative to what was added."""
    sites = [Network(factors=factors[i]) for i in range(3)]
    for i, model in enumerate(sites):
        if adapter._average == "b":
            adapter.freeze(model)
        trained(model, i, steps)
    base = Network()
    exact = [np.mean([weight_of(getattr(m, name)) for m in sites], axis=0) for name in ("first", "second")]
    adapter.load(sites[0], mean_of(adapter, sites))
    got = [weight_of(sites[0].first), weight_of(sites[0].second)]
    added = [e - w.base_layer.weight.numpy() for e, w in zip(exact, (base.first, base.second), strict=True)]
    errors = [g - e for g, e in zip(got, exact, strict=True)]
    return np.sqrt(sum((e**2).sum() for e in errors) / sum((a**2).sum() for a in added))


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_mean_of_b_and_of_products_is_exact_and_that_of_factors_is_not(steps):
    """Figures of docs/adapters.md: from the same A; A of each site's own is the common mistake."""
    assert off(PeftAdapter("b"), (0, 0, 0), steps) < 1e-6
    # The weights' last digit as float32, in units of what was added: more, the less that is.
    digit = 1e-4 if steps == 1 else 1e-5
    assert off(PeftAdapter("product"), (0, 0, 0), steps) < digit
    assert off(PeftAdapter("product"), (0, 1, 2), steps) < digit
    apart = off(PeftAdapter("factors"), (0, 0, 0), steps)
    unlike = off(PeftAdapter("factors"), (0, 1, 2), steps)
    print(f"{steps} steps: {apart:.3f} from one A, {unlike:.2f} from three")
    assert unlike > 0.3
    assert apart > (0.05 if steps == 100 else -1)


def test_only_what_is_trained_travels():
    model = Network()
    b = list(PeftAdapter("b").freeze(model).state_dict())
    assert "first.base_layer.weight" in b
    names = list(PeftAdapter("b").tensors(model))
    assert [name.split(" with A ")[0] for name in names] == [
        "first.lora_B.default.weight", "second.lora_B.default.weight", "head.weight", "head.bias",
    ]  # fmt: skip
    product = PeftAdapter("product").tensors(Network())
    assert list(product) == ["first.base_layer.weight", "second.base_layer.weight", "head.weight", "head.bias"]
    factors = PeftAdapter("factors", exclude="head.*").tensors(Network())
    assert [name.rpartition(".default")[0] for name in factors] == [
        "first.lora_A", "first.lora_B", "second.lora_A", "second.lora_B",
    ]  # fmt: skip
    assert PeftAdapter("b").statistics(model) == frozenset()


def test_a_frozen_a_is_the_same_at_every_site_and_stays():
    adapter = PeftAdapter("b")
    here: Any
    here, there = adapter.freeze(Network(factors=0)), adapter.freeze(Network(factors=1))
    with pytest.raises(InputError, match="lora_B"):
        adapter.load(there, adapter.tensors(here))
    before = adapter.tensors(here)
    with torch.no_grad():
        here.first.lora_A["default"].weight += 1e-3  # by an optimizer that was made before
    with pytest.raises(InputError, match="lora_B"):
        adapter.load(here, before)
    with pytest.raises(InputError, match="expected it frozen"):
        adapter.tensors(Network())


def test_a_site_with_another_a_does_not_fit_the_plan():
    adapter = PeftAdapter("b")
    plan = training_plan(
        "x", adapter.freeze(Network()), clip=2.0, weight_cap=64, max_sites=3, adapter=adapter, rounds=1
    )

    def site(site, i):
        return train(site, adapter.freeze(Network(factors=i)), lambda model, task: 1, adapter=PeftAdapter("b"))

    with pytest.raises(PlanError, match="with A"):
        simulate(plan, ["a", "b", "c"], site)


@pytest.mark.parametrize("average", ["b", "product"])
def test_a_training_of_three_sites(average):
    """Through the integers of a plan: all sites have the same model, and it fits better."""
    adapter = PeftAdapter(average)

    def fresh():
        model = Network()
        return adapter.freeze(model) if average == "b" else model

    plan = training_plan("x", fresh(), clip=4.0, weight_cap=64, max_sites=3, adapter=adapter, rounds=4, value_bits=24)
    x = torch.from_numpy(np.random.default_rng(9).normal(size=(8, 16)).astype(np.float32))

    def site(site, i):
        model = fresh()
        train(site, model, lambda model, task: trained(model, i, 20), adapter=PeftAdapter(average))
        with torch.no_grad():
            return model(x).numpy()

    answers = simulate(plan, ["a", "b", "c"], site)
    assert all(np.array_equal(answer, answers[0]) for answer in answers)
    assert not np.allclose(answers[0], fresh()(x).detach().numpy(), atol=1e-3)


def test_products_go_round_and_what_the_rank_does_not_hold_stays_in_the_base():
    adapter: Any = PeftAdapter("product")
    model: Any = Network()
    trained(model, 1, 5)
    own = model.first.lora_A["default"].weight.detach().clone()
    adapter.load(model, adapter.tensors(model))
    assert torch.equal(model.first.lora_A["default"].weight, own)  # nothing new, nothing moves
    rng = np.random.default_rng(5)
    target = {n: a + rng.normal(0, 0.1, a.shape).astype(np.float32) for n, a in adapter.tensors(model).items()}
    adapter.load(model, target)
    again = adapter.tensors(model)
    for name, array in target.items():
        assert np.abs(again[name] - array).max() < 1e-6
    assert np.linalg.matrix_rank(model.first.lora_B["default"].weight.detach().numpy()) == RANK


def test_embeddings_are_products_turned():
    holder: Any = nn.Module()
    holder.emb = LoraEmbedding(nn.Embedding(10, 6))
    with torch.no_grad():
        holder.emb.lora_embedding_A["default"].normal_()
    adapter = PeftAdapter("product")
    ((name, array),) = adapter.tensors(holder).items()
    assert name == "emb.base_layer.weight"
    assert np.allclose(array, holder.emb(torch.arange(10)).detach().numpy(), atol=1e-6)
    adapter.load(holder, {name: array + 1})
    assert np.allclose(holder.emb(torch.arange(10)).detach().numpy(), array + 1, atol=1e-5)


def test_what_has_no_exact_mean_is_refused():
    model = Network()
    model.first.lora_magnitude_vector = nn.ParameterDict({"default": torch.ones(24)})
    for average in ("b", "product"):
        adapter = PeftAdapter(average)
        with pytest.raises(InputError, match="another kind"):
            adapter.tensors(adapter.freeze(model))
    assert "first.lora_magnitude_vector.default" in PeftAdapter("factors").tensors(model)
    with pytest.raises(InputError, match="get_peft_model") as caught:
        PeftAdapter("b").tensors(nn.Linear(2, 2))
    assert "lora_A" in caught.value.message
    wrong: Any = "mean"
    with pytest.raises(InputError, match="'b', 'product' or 'factors'"):
        PeftAdapter(wrong)
    for change, sentence in (
        (lambda layer: setattr(layer, "merged", True), "not merged"),
        (lambda layer: delattr(layer, "scaling"), "scaling"),
        (lambda layer: setattr(layer, "fan_in_fan_out", True), "other shapes"),
    ):
        model = Network()
        change(model.first)
        with pytest.raises(InputError, match=sentence):
            PeftAdapter("product").tensors(model)


def test_factors_are_warned_of_wherever_both_are_averaged():
    model = Network()
    adapter = TorchAdapter()
    with pytest.warns(FactorWarning, match=r"lora_A.*PeftAdapter"):
        adapter.tensors(model)
    adapter.tensors(model)  # said once
    arrays = {name: array for name, array in PeftAdapter("factors").tensors(model).items() if "lora" in name}
    with pytest.warns(FactorWarning):
        PytreeAdapter().tensors(arrays)
    PytreeAdapter(include="*lora_B*").tensors(arrays)
    model(torch.ones(1, 16)).sum().backward()
    TorchGradients().tensors(model)  # the mean of gradients is a gradient
