"""DP-SGD at a site by Opacus: noise that is there, a cost that is the accountant's, and layers that must not be."""

from __future__ import annotations

import numpy as np
import pytest

from client_sdk import privacy
from he_agg import ConfigError

torch = pytest.importorskip("torch")
pytest.importorskip("opacus")
pytestmark = [
    pytest.mark.filterwarnings("ignore:Secure RNG turned off:UserWarning"),
    pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def loop(noise_multiplier=1.0, layers=None):
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = (x[:, :1] > 0).float()
    module = torch.nn.Sequential(*(layers or [torch.nn.Linear(3, 1)]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=20)
    return (
        privacy.private_training(module, optimizer, loader, noise_multiplier=noise_multiplier, clip_norm=1.0),
        x,
        y,
    )


def test_training_learns_and_costs_what_the_accountant_says(tmp_path):
    private, x, y = loop()
    assert private.sample_rate == pytest.approx(0.1)
    ledger = privacy.Ledger(tmp_path / "examples", epsilon=5.0, delta=1e-4)
    assert private.charge(ledger, "fed.1", steps=30)
    assert not private.charge(ledger, "fed.1", steps=30)
    steps = 0
    for _ in range(3):
        for features, outcomes in private.loader:
            private.optimizer.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(private.module(features), outcomes).backward()
            private.optimizer.step()
            steps += 1
    assert steps == 30
    right = ((private.module(x) > 0).float() == y).float().mean().item()
    assert right > 0.8
    assert ledger.spent == pytest.approx(private.epsilon(30, 1e-4))
    assert 0.5 < ledger.spent < 5.0
    assert private.epsilon(3000, 1e-4) > 5.0
    with pytest.raises(privacy.BudgetSpentError):
        private.charge(ledger, "fed.2", steps=3000)
    # Sampling makes it far cheaper than the same steps on everybody.
    assert np.all(private.rdp(30)[:5] < 30 * np.array(privacy.ORDERS[:5]) / 2)


def test_layers_that_mix_examples_are_refused():
    with pytest.raises(ConfigError, match="keep examples apart") as caught:
        loop(layers=[torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1)])
    assert "GroupNorm" in caught.value.hint


def test_a_module_is_made_private_in_every_round_anew():
    """As `fit` does it: the same module each time; the privacy of one round does not leak into the next one's code."""
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    names = list(module.state_dict())
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=10)
    for _ in range(4):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        private = privacy.private_training(module, optimizer, data, noise_multiplier=1.0, clip_norm=1.0)
        before = module[0].weight.detach().clone()
        for (rows,) in private.loader:
            private.optimizer.zero_grad()
            private.module(rows).square().sum().backward()
            private.optimizer.step()
        assert not torch.equal(before, module[0].weight)
        assert list(module.state_dict()) == names


def test_a_module_in_the_hands_of_another_engine_is_refused():
    import opacus

    module = torch.nn.Sequential(torch.nn.Linear(3, 1))
    wrapped = opacus.GradSampleModule(module)
    for taken in (module, wrapped):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(4, 3)), batch_size=2)
        with pytest.raises(ConfigError, match="PrivacyEngine"):
            privacy.private_training(taken, optimizer, loader, noise_multiplier=1.0, clip_norm=1.0)
