"""Five hospitals train one PyTorch network, and the aggregator sees ciphertexts only.

    python -m examples.tutorials.fedavg_torch --out fedavg.png

Who dies within ten years of a blood sample? (flchain; `hospitals.py` deals the patients out.) Four answers:

* **local**: each hospital trains alone;
* **pooled**: one hospital has everybody's patients, which is what privacy forbids;
* **plaintext**: federated averaging in float64, as any framework would do it;
* **encrypted**: `client_sdk.training.train` on a real aggregator process.

The encrypted run must follow the plaintext fixed-point run *bit for bit* in every round; this program checks it. It
should follow the plaintext float run within the noise of seeds; the picture shows that.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from client_sdk.adapters import TorchAdapter
from client_sdk.local import local_federation
from client_sdk.training import BinaryScores, Result, Task, simulate, train, training_plan
from examples.demo.model import auc
from examples.pictures import BLUE, INK, ORANGE, SKY, drawn, saved, titled
from examples.tutorials.hospitals import Hospital, load_hospitals

EPOCHS, BATCH, LR = 2, 32, 0.02


# --- what a hospital has already: a model, a training loop, a prediction ---


def network(seed: int = 0) -> torch.nn.Module:
    """All hospitals start from the same weights, so from the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1)
        )


def epochs(model: torch.nn.Module, patients: Any, seed: int, lr: float, count: int = EPOCHS) -> int:
    """Train in place. Everything random follows from the seed, through a generator of its own."""
    features, died = (torch.from_numpy(array) for array in patients)
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-3)  # new in every round
    loss = torch.nn.BCEWithLogitsLoss()
    for _ in range(count):
        for rows in torch.randperm(len(died), generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            loss(model(features[rows])[:, 0], died[rows]).backward()
            optimizer.step()
    return len(died)


def predict(model: torch.nn.Module, features: Any) -> Any:
    """Probability of death."""
    with torch.no_grad():
        return torch.sigmoid(model(torch.from_numpy(features))[:, 0]).numpy()


# --- what federated training adds ---


def at_a_hospital(site: Any, model: torch.nn.Module, hospital: Hospital, rounds: int, hooks: Any = ()) -> Result:
    """The ten lines that a hospital writes."""

    def fit(model: torch.nn.Module, task: Task) -> int:
        return epochs(model, hospital.train, task.seed, lr=LR * 0.85 ** (task.step - 1))

    def evaluate(model: torch.nn.Module) -> Any:
        return hospital.test[1], predict(model, hospital.test[0])

    return train(
        site, model, fit, evaluate=evaluate, evaluation=BinaryScores(), rounds=rounds, hooks=hooks
    )  # checkpoint="training.npz" makes it survive crashes


# --- what it is compared with ------


def alone(patients: Any, rounds: int, seed: int) -> torch.nn.Module:
    """As many epochs and the same step sizes, with nobody else."""
    model = network(seed)
    for number in range(rounds):
        epochs(model, patients, 1000 * seed + number, lr=LR * 0.85**number)
    return model


def float_fedavg(hospitals: list[Hospital], rounds: int, seed: int) -> list[dict[str, Any]]:
    """Federated averaging in float64, nothing encrypted or rounded. The model after each round."""
    adapter, model = TorchAdapter(), network(seed)
    shared, history = adapter.tensors(model), []
    for number in range(rounds):
        parts = []
        for place, hospital in enumerate(hospitals):
            adapter.load(model, shared)
            n = epochs(model, hospital.train, 1000 * seed + 17 * number + place, lr=LR * 0.85**number)
            parts.append((n, adapter.tensors(model)))
        total = sum(n for n, _ in parts)
        sums: dict[str, Any] = {
            name: sum(n * tensors[name].astype(np.float64) for n, tensors in parts) for name in shared
        }
        shared = {name: (array / total).astype(np.float32) for name, array in sums.items()}
        history.append(shared)
    return history


def score(model: torch.nn.Module, hospitals: list[Hospital]) -> list[float]:
    """AUC at each hospital's own test patients, and at all of them together."""
    tests = [hospital.test for hospital in hospitals]
    everybody = tuple(np.concatenate(columns) for columns in zip(*tests, strict=True))
    return [auc(died, predict(model, features)) for features, died in [*tests, everybody]]


def run(rounds: int = 15, seeds: int = 5, limit: int | None = None) -> dict[str, Any]:
    """Everything that the picture shows.

    Args:
        rounds: of every training.
        seeds: how many float runs show the noise.
        limit: patients per hospital, to be quick.

    Raises:
        AssertionError: the encrypted run did not follow the plaintext fixed-point run bit for bit.
    """
    torch.set_num_threads(1)
    hospitals = load_hospitals(limit=limit)
    names = [hospital.name for hospital in hospitals]
    cap = 100 * -(-max(len(hospital.train[1]) for hospital in hospitals) // 100)
    plan = training_plan(
        "flchain", network(), clip=2.0, weight_cap=cap, max_sites=len(names), min_sites=len(names), rounds=rounds,
        evaluation=BinaryScores(), deadline_s=600,
    )  # fmt: skip

    # Sites are processes in a hospital and threads here. PyTorch's seed belongs to the process: make models before.
    models = [network() for _ in names]
    encrypted: list[dict[str, Any]] = []
    with local_federation(plan, names) as federation:
        results = federation.everywhere(
            lambda site, i: at_a_hospital(
                site, models[i], hospitals[i], rounds, [lambda report: encrypted.append(report.model)] if i == 0 else ()
            )
        )
    models = [network() for _ in names]
    fixed: list[dict[str, Any]] = []
    simulate(
        plan, names,
        lambda site, i: at_a_hospital(
            site, models[i], hospitals[i], rounds, [lambda report: fixed.append(report.model)] if i == 0 else ()
        ),
    )  # fmt: skip
    for number, (one, other) in enumerate(zip(encrypted, fixed, strict=True), start=1):
        if any(one[name].tobytes() != other[name].tobytes() for name in one):
            raise AssertionError(f"round {number}: the encrypted model is not the plaintext fixed-point model")
    if len({result.model_hash for result in results}) != 1:
        raise AssertionError("the hospitals hold different models")

    adapter, model = TorchAdapter(), network()

    def scored(tensors: dict[str, Any]) -> list[float]:
        return score(adapter.load(model, tensors), hospitals)

    runs = [[scored(tensors) for tensors in float_fedavg(hospitals, rounds, seed)] for seed in range(seeds)]
    everybody = tuple(np.concatenate(columns) for columns in zip(*(h.train for h in hospitals), strict=True))
    return {
        "names": names,
        "patients": [len(hospital.train[1]) for hospital in hospitals],
        "encrypted": [scored(tensors) for tensors in encrypted],
        "float": runs,
        "local": [score(alone(hospital.train, rounds, 0), hospitals) for hospital in hospitals],
        "pooled": score(alone(everybody, rounds, 0), hospitals),
        "through_the_sum": [entry["metrics"] for entry in results[0].history],
        "bytes_up": plan.public.wire_bytes,
    }


def draw(found: dict[str, Any], out: Path) -> None:
    """Left: the score of all test patients, round by round. Right: who scores how well where."""
    figure, (left, right) = drawn(2, width=13, height=5.4, width_ratios=[1, 1.15])
    rounds = np.arange(1, len(found["encrypted"]) + 1)
    seeds = np.array([[scores[-1] for scores in run] for run in found["float"]])
    span = {"color": SKY, "alpha": 0.4, "linewidth": 0, "label": f"plaintext float, {len(seeds)} seeds (range)"}
    left.fill_between(rounds, seeds.min(axis=0), seeds.max(axis=0), **span)
    left.plot(rounds, seeds[0], color=BLUE, linewidth=1.2, label="plaintext float, same initial weights")
    left.plot(rounds, [s[-1] for s in found["encrypted"]], "o-", color=ORANGE, markersize=4, label="encrypted")
    left.axhline(found["pooled"][-1], color=INK, linestyle="--", linewidth=1, label="pooled (forbidden)")
    for i, row in enumerate(found["local"]):
        label = "each hospital alone" if i == 0 else None
        left.axhline(row[-1], color=INK, linestyle=":", linewidth=1, label=label)
    left.set_xlabel("round")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)  # below: no line runs through it
    titled(left, "Encrypted training follows plaintext training", "AUC, test patients of all hospitals")

    labels = [*(f"{name} alone ({n})" for name, n in zip(found["names"], found["patients"], strict=True)),
              "pooled", "plaintext federated", "encrypted federated"]  # fmt: skip
    table = np.array([*found["local"], found["pooled"], found["float"][0][-1], found["encrypted"][-1]])
    gain = table - table[-1]
    image = right.imshow(gain, cmap="RdBu", vmin=-0.1, vmax=0.1, aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        dark = abs(gain[row, column]) > 0.06
        right.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=9, color="w" if dark else "k")
    right.set_xticks(range(table.shape[1]), [*found["names"], "all"], rotation=25, ha="right", fontsize=9)
    right.set_yticks(range(len(labels)), labels, fontsize=9)
    right.axhline(len(found["names"]) - 0.5, color="k", linewidth=1)
    right.axvline(len(found["names"]) - 0.5, color="k", linewidth=1)
    titled(right, "Who scores how well where", "AUC; rows: trained there, columns: tested there")
    figure.colorbar(image, ax=right, label="difference to encrypted federated", shrink=0.8)
    saved(figure, out)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description="Encrypted FedAvg of a PyTorch network at five hospitals.")
    parser.add_argument("--out", type=Path, default=Path("fedavg.png"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=None)
    options = parser.parse_args(arguments)
    found = run(options.rounds, options.seeds, options.limit)
    draw(found, options.out)
    floats = [run[-1][-1] for run in found["float"]]
    print(f"AUC of all test patients after {options.rounds} rounds")
    for name, row in zip(found["names"], found["local"], strict=True):
        print(f"  {name + ' alone':28} {row[-1]:.4f}")
    print(f"  {'pooled':28} {found['pooled'][-1]:.4f}")
    print(f"  {'plaintext federated':28} {min(floats):.4f} to {max(floats):.4f} over {len(floats)} seeds")
    print(f"  {'encrypted federated':28} {found['encrypted'][-1][-1]:.4f}, bit for bit its plaintext fixed-point run")
    return found


if __name__ == "__main__":
    main()
