"""LoRA layers of the package `peft` itself, in a transformer: averaged exactly, trained, merged, refused.

test_peft.py has the same layers without the package.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own, about what else is not installed
    peft = pytest.importorskip("peft", reason="peft is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from client_sdk.adapters import PeftAdapter  # noqa: E402
from client_sdk.training import simulate, train, training_plan  # noqa: E402
from he_agg.errors import InputError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS, LENGTH = 32, 8


def network(seed=0, adapters=0, **options):
    """A small BERT that classifies, with adapters in its attention and a head that is trained whole."""
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=TOKENS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    base = transformers.BertForSequenceClassification(config)
    torch.manual_seed(100 + adapters)
    return peft.get_peft_model(
        base,
        peft.LoraConfig(
            task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["query", "value"], **options
        ),
    )


def trained(model, seed, steps=20):
    """Some steps on sentences of a site's own: whether a token is among them."""
    rng = np.random.default_rng(seed)
    words = torch.from_numpy(rng.integers(0, TOKENS, (48, LENGTH)))
    labels = (words == 3 + seed).any(dim=1).long()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=words, labels=labels).loss.backward()
        optimizer.step()
    return len(words)


def weights(model):
    """What the attention multiplies by, as peft itself merges it: all adapters in."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, peft.tuners.lora.Linear)}
    assert len(layers) == 4
    return {
        n: (m.base_layer.weight.double() + m.get_delta_weight("default").double()).detach().numpy()
        for n, m in layers.items()
    }


def averaged(adapter, models):
    tensors = [adapter.tensors(model) for model in models]
    mean = {k: np.mean([t[k] for t in tensors], axis=0, dtype=np.float64).astype(np.float32) for k in tensors[0]}
    adapter.load(models[0], mean)
    return models[0]


@pytest.mark.parametrize(
    ("average", "alike", "exact"),
    [("b", True, 1e-6), ("product", True, 1e-6), ("product", False, 1e-6), ("factors", True, None)],
)
def test_the_mean_of_what_pefts_layers_add(average, alike, exact):
    adapter, models = PeftAdapter(average), [network(adapters=0 if alike else i) for i in range(3)]
    for i, model in enumerate(models):
        if average == "b":
            adapter.freeze(model)
        trained(model, i)
    before, start = [weights(model) for model in models], weights(network())
    got = weights(averaged(adapter, models))
    off = added = 0.0
    for name in got:
        mean = np.mean([each[name] for each in before], axis=0)
        off += float(((got[name] - mean) ** 2).sum())
        added += float(((mean - start[name]) ** 2).sum())
    relative = (off / added) ** 0.5
    print(f"{average}, alike {alike}: {relative:.2e}")
    assert relative < exact if exact else relative > 0.01


def test_what_travels_is_what_peft_would_save():
    """By the names of its state dict, with the head that is trained whole; merged models are refused."""
    model = network()
    saved = peft.get_peft_model_state_dict(model)
    factors = PeftAdapter("factors").tensors(model)
    assert {name.replace(".default", "").replace(".modules_to_save", "") for name in factors} == set(saved)
    for name, array in PeftAdapter("b").tensors(PeftAdapter("b").freeze(model)).items():
        key = name.split(" with A ")[0].replace(".default", "").replace(".modules_to_save", "")
        assert np.array_equal(array, saved[key].numpy())
    model.merge_adapter()
    with pytest.raises(InputError, match="not merged"):
        PeftAdapter("product").tensors(model)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"use_rslora": True}])
def test_other_kinds_of_lora(options):
    """Rank-stabilised layers are linear, with another factor; DoRA is not, and refused."""
    model = network(**options)
    trained(model, 0, 2)
    if "use_dora" in options:
        for average in ("b", "product"):
            adapter: Any = PeftAdapter(average)
            with pytest.raises(InputError, match="another kind"):
                adapter.tensors(adapter.freeze(model))
        return
    tensors = PeftAdapter("product").tensors(model)
    for name, weight in weights(model).items():
        assert np.allclose(tensors[f"{name}.base_layer.weight"], weight, atol=1e-6)


@pytest.mark.parametrize("average", ["b", "product"])
def test_three_sites_train_one_transformer(average):
    """Through the integers of a plan: the same model everywhere, and peft loads what it saves."""
    adapter: Any = PeftAdapter(average)

    def fresh():
        model = network()
        return adapter.freeze(model) if average == "b" else model

    plan = training_plan("x", fresh(), clip=4.0, weight_cap=64, max_sites=3, adapter=adapter, rounds=2, value_bits=24)
    words = torch.arange(2 * LENGTH).reshape(2, LENGTH)

    def site(site, i):
        model, own = fresh(), PeftAdapter(average)
        train(site, model, lambda model, task: trained(model, i, 5), adapter=own)
        with torch.no_grad():
            return model(input_ids=words).logits.numpy(), peft.get_peft_model_state_dict(model)

    answers = simulate(plan, ["a", "b", "c"], site)
    assert all(np.array_equal(logits, answers[0][0]) for logits, _ in answers)
    if average == "b":
        again = network()
        peft.set_peft_model_state_dict(again, answers[0][1])
        with torch.no_grad():
            assert np.array_equal(again(input_ids=words).logits.numpy(), answers[0][0])
