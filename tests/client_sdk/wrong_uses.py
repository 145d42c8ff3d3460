"""Wrong use of the SDK, as people do it: each is done, and must be answered by a sentence."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk import Site, analytics
from client_sdk.adapters import KerasAdapter, PytreeAdapter, adapter_for
from client_sdk.analytics import Grid
from client_sdk.training import (
    BinaryScores,
    ClassCounts,
    EarlyStopping,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    MeanLoss,
    simulate,
    train,
    training_plan,
)
from he_agg import Layout, Plan, quantize

MODEL = {"w": np.zeros(3, np.float32), "b": np.zeros((), np.float64)}
SITES = ("a", "b", "c")
Use = Callable[[], Any]


def plan(**options: Any) -> Plan:
    return Plan.create("x", Layout.of(MODEL, clip=1.0, weight_cap=100), **{"max_sites": 3} | options)


def sent(update: Any, weight: Any = 1, **how: Any) -> Use:
    return lambda: quantize(plan(), update, weight, **how)


def trained(fit: Any = None, model: Any = None, **options: Any) -> Use:
    """Train at three simulated sites."""

    def use() -> Any:
        own = {"w": np.zeros(3, np.float32)} if model is None else model
        made = options.pop("plan", None) or training_plan(
            "x", {"w": np.zeros(3, np.float32)}, clip=1.0, weight_cap=100, max_sites=3, rounds=2,
            strategy=options.get("strategy"), evaluation=options.get("evaluation"),
        )  # fmt: skip
        learns = fit or (lambda tree, task: ({"w": tree["w"] + np.float32(0.1)}, 5))
        return simulate(made, SITES, lambda site, i: train(site, own, learns, **options))

    return use


def learned(result: Any) -> Use:
    return trained(lambda tree, task: result(tree))


def scored(answer: Any, evaluation: Any = None) -> Use:
    return lambda: (evaluation or BinaryScores()).count(answer)


def asked(question: Any, *data: Any) -> Use:
    return lambda: question.prepared(*data)


def weights(*changes: tuple[str, Any], drop: tuple[str, ...] = ()) -> dict[str, Any]:
    return {k: v for k, v in (MODEL | dict(changes)).items() if k not in drop}


def unlike_questions() -> Any:
    made = Plan.create(
        "x",
        analytics.layout_for(analytics.Histogram((0, 1, 2))),
        value_bits=analytics.VALUE_BITS,
        max_sites=3,
        rounds=2,
    )
    return simulate(made, SITES, lambda site, i: analytics.run(site, analytics.Histogram((0, 1, 2 + i)), [0.5]))


UPDATES: dict[str, Use] = {
    "an update with NaN": sent(weights(("w", np.array([0, np.nan, 0], np.float32)))),
    "an update with infinity": sent(weights(("b", np.array(np.inf)))),
    "an update beyond the clip bound": sent(weights(("w", np.full(3, 2, np.float32)))),
    "a tensor of another dtype": sent(weights(("w", np.zeros(3)))),
    "whole numbers for floats": sent(weights(("w", np.zeros(3, int)))),
    "a tensor of another shape": sent(weights(("w", np.zeros(4, np.float32)))),
    "a list for an array": sent(weights(("w", [0.0, 0.0, 0.0]))),
    "text for an array": sent(weights(("w", "zeros"))),
    "None for an array": sent(weights(("w", None))),
    "a tensor too few": sent(weights(drop=("b",))),
    "a tensor too many": sent(weights(("c", np.zeros(2)))),
    "another name": sent({"W": MODEL["w"], "b": MODEL["b"]}),
    "a list of arrays for a dict": sent([MODEL["w"], MODEL["b"]]),
    "no update": sent(None),
    "an empty update": sent({}),
    "a negative weight": sent(MODEL, -1),
    "a weight of 0": sent(MODEL, 0),
    "a weight above the cap": sent(MODEL, 101),
    "a weight that is a fraction": sent(MODEL, 1.5),
    "a weight that is text": sent(MODEL, "5"),
    "a weight that is True": sent(MODEL, True),
    "no weight": sent(MODEL, None),
    "a rounding that there is not": sent(MODEL, 1, rounding="up"),
    "an overflow rule that there is not": sent(MODEL, 1, on_overflow="ignore"),
}

PLANS: dict[str, Use] = {
    "a layout without tensors": lambda: Layout.of({}, clip=1.0, weight_cap=1),
    "a layout of whole numbers": lambda: Layout.of({"n": np.zeros(3, int)}, clip=1.0, weight_cap=1),
    "a clip bound of 0": lambda: Layout.of(MODEL, clip=0.0, weight_cap=1),
    "a clip bound for one of two tensors": lambda: Layout.of(MODEL, clip={"w": 1.0}, weight_cap=1),
    "a clip bound that is text": lambda: Layout.of(MODEL, clip="1", weight_cap=1),  # type: ignore[arg-type]
    "a weight cap of 0": lambda: Layout.of(MODEL, clip=1.0, weight_cap=0),
    "a weight cap that is a fraction": lambda: Layout.of(MODEL, clip=1.0, weight_cap=1.5),  # type: ignore[arg-type]
    "a plan for one site": lambda: plan(max_sites=1),
    "more sites needed than there may be": lambda: plan(max_sites=3, min_sites=4),
    "a plan of no rounds": lambda: plan(rounds=0),
    "values of one bit": lambda: plan(value_bits=1),
    "values of 64 bits": lambda: plan(value_bits=64),
    "a codec that there is not": lambda: plan(codec="paillier"),
    "a name with a space": lambda: Plan.create("my trial", Layout.of(MODEL, clip=1.0, weight_cap=1), max_sites=3),
    "bytes that are no plan": lambda: Plan.parse(b"{}"),
}

ADAPTERS: dict[str, Use] = {
    "a model of no framework": lambda: adapter_for(object()),
    "text as a model": lambda: adapter_for("model.pt"),
    "a tree with text in it": lambda: PytreeAdapter().tensors({"w": np.ones(2), "name": np.array(["resnet"])}),
    "a tree of complex numbers": lambda: PytreeAdapter().tensors({"w": np.ones(2, complex)}),
    "a tree without floats": lambda: PytreeAdapter().tensors({"n": np.arange(3)}),
    "a tree with masked values": lambda: PytreeAdapter().tensors({"w": np.ma.array([1.0, 2.0], mask=[False, True])}),
    "a tree with a path twice": lambda: PytreeAdapter().tensors({"a": {"b": 1.0}, "a/b": 2.0}),
    "patterns that leave nothing": lambda: PytreeAdapter(include="head.*").tensors(MODEL),
    "a mean of another model": lambda: PytreeAdapter().load(MODEL, {"w": np.zeros(5, np.float32), "b": MODEL["b"]}),
    "a mean of other names": lambda: PytreeAdapter().load(MODEL, {"kernel": MODEL["w"]}),
    "weights by numbers, with momentum": lambda: trained(
        model=[np.zeros(3, np.float32)], strategy=FedAvgM(),
        plan=training_plan("x", [np.zeros(3, np.float32)], clip=1, weight_cap=100, max_sites=3, strategy=FedAvgM()),
    )(),
    "Keras weights that were named anew": lambda: drifted(),
}  # fmt: skip


class KerasLike:
    """As much of a Keras model as the adapter looks at. Names count on in a process: dense, dense_1, ..."""

    def __init__(self, layer: str) -> None:
        self.weights = [type("Variable", (), {"path": f"sequential/{layer}/kernel"})()]

    def get_weights(self) -> list[Any]:
        return [np.zeros(2, np.float32)]

    def set_weights(self, weights: list[Any]) -> None:
        pass


def drifted() -> Any:
    there = training_plan("x", KerasLike("dense"), clip=1.0, weight_cap=1, max_sites=3)
    assert isinstance(adapter_for(KerasLike("dense")), KerasAdapter)
    return trained(model=KerasLike("dense_1"), plan=there)()


QUESTIONS: dict[str, Use] = {
    "NaN among the values": asked(analytics.Histogram((0, 1)), [0.5, np.nan]),
    "a column of text": asked(analytics.Histogram((0, 1)), ["0.5"]),
    "a column of dates": asked(analytics.KaplanMeier(1, 10), np.array(["2026-01-01"], "datetime64[D]"), [1]),
    "spans of time without their unit": asked(analytics.KaplanMeier(1, 10), np.array([3], "timedelta64[D]"), [1]),
    "a generator": asked(analytics.Histogram((0, 1)), (x for x in [0.5])),
    "a set": asked(analytics.Histogram((0, 1)), {0.5}),
    "a dict": asked(analytics.Histogram((0, 1)), {"age": [0.5]}),
    "a single number": asked(analytics.Histogram((0, 1)), 0.5),
    "a table of other columns": asked(analytics.Moments([Grid(1, 0, 9)]), np.zeros((3, 2))),
    "a table with text in it": asked(analytics.PCA(1, [Grid(1, 0, 9)] * 2), [[1, "f"], [2, "m"]]),
    "ragged rows": asked(analytics.PCA(1, [Grid(1, 0, 9)] * 2), [[1, 2], [3]]),
    "a value off the agreed grid": asked(analytics.Moments([Grid(1, 0, 9)]), [77.0]),
    "a category that nobody agreed on": asked(analytics.Counts({"sex": ["f", "m"]}), ["f", "d"]),
    "columns of unequal length": asked(analytics.KaplanMeier(1, 10), [3, 4], [1]),
    "a column too few": asked(analytics.KaplanMeier(1, 10), [3, 4]),
    "events that are 1 and 2": asked(analytics.KaplanMeier(1, 10), [3, 4], [1, 2]),
    "negative times": asked(analytics.KaplanMeier(1, 10), [-3], [1]),
    "a grid of no step": lambda: Grid(0, 0, 1),
    "bounds the wrong way round": lambda: Grid(1, 10, 0),
    "edges that do not ascend": lambda: analytics.Histogram((0, 2, 1)),
    "no categories": lambda: analytics.Counts({}),
    "categories as text": lambda: analytics.Counts({"sex": "fm"}),
    "a probability of 50": lambda: analytics.Quantiles(Grid(1, 0, 9), (50,)),
    "no clusters": lambda: analytics.KMeans(0, Grid(1, 0, 9), 2),
    "half a cluster": lambda: analytics.KMeans(2.5, Grid(1, 0, 9), 2),  # type: ignore[arg-type]
    "more components than columns": lambda: analytics.PCA(3, [Grid(1, 0, 9)] * 2),
    "the same group twice": lambda: analytics.KaplanMeier(1, 10, ["a", "a"]),
    "a dry run of nobody": lambda: analytics.dry_run(analytics.Histogram((0, 1)), []),
    "unlike questions at three sites": unlike_questions,
    "no analyses": lambda: analytics.layout_for(),
}

TRAININGS: dict[str, Use] = {
    "fit returns nothing": learned(lambda tree: None),
    "fit returns the model alone": learned(lambda tree: tree),
    "fit returns a fraction": learned(lambda tree: (tree, 5.5)),
    "fit returns a negative number": learned(lambda tree: (tree, -5)),
    "fit returns more than the cap": learned(lambda tree: (tree, 101)),
    "fit returns three things": learned(lambda tree: (tree, 5, "ok")),
    "fit makes NaN": learned(lambda tree: ({"w": tree["w"] * np.nan}, 5)),
    "fit moves beyond the clip bound": learned(lambda tree: ({"w": tree["w"] + np.float32(3)}, 5)),
    "fit changes a dtype": learned(lambda tree: ({"w": tree["w"].astype(float)}, 5)),
    "fit changes a shape": learned(lambda tree: ({"w": tree["w"][:2]}, 5)),
    "fit loses a tensor": learned(lambda tree: ({"v": tree["w"]}, 5)),
    "fit takes other arguments": trained(lambda tree: (tree, 5)),
    "a model that is NaN": trained(model={"w": np.full(3, np.nan, np.float32)}),
    "a model that the plan is not for": trained(model={"w": np.zeros(4, np.float32)}),
    "a plan that is not for training": trained(plan=plan()),
    "evaluate without evaluation": trained(evaluate=lambda model: ([1], [0.5])),
    "evaluation without evaluate": trained(evaluation=BinaryScores()),
    "evaluate returns one thing": trained(evaluate=lambda model: 0.5, evaluation=BinaryScores()),
    "stopping on a score that there is not": trained(stopping=EarlyStopping("f1")),
    "FedProx without its term": trained(strategy=FedProx()),
    "a transform that returns nothing": trained(transform=lambda update, task: None),
    "a rounding that there is not, in training": trained(rounding="up"),
    "a learning rate of 0": lambda: FedAvg(lr=0),
    "a momentum of 1": lambda: FedAvgM(momentum=1.0),
    "a learning rate that is text": lambda: FedAdam(lr="0.1"),  # type: ignore[arg-type]
    "a tau of 0": lambda: FedAdam(tau=0),
    "probabilities beyond 1": scored(([0, 1], [0.5, 1.5])),
    "logits": scored(([0, 1], [-2.0, 3.0])),
    "labels beyond 1": scored(([0, 2], [0.5, 0.5])),
    "more labels than probabilities": scored(([0, 1, 1], [0.5, 0.5])),
    "a class too many": scored(([0, 3], [0, 1]), ClassCounts(3)),
    "a loss that is NaN": scored((np.nan, 5), MeanLoss()),
    "a loss of minus two patients": scored((0.5, -2), MeanLoss()),
    "a checkpoint that is no checkpoint": trained(checkpoint=Path(__file__)),
    "a checkpoint in a folder that there is not": trained(checkpoint="/no/such/folder/x.npz"),
    "a folder as a checkpoint": trained(checkpoint=Path(__file__).parent),
    "a negative number of rounds": trained(rounds=-1),
}


def sklearn_uses() -> dict[str, Use]:
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from client_sdk.adapters import SklearnAdapter

    x, y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
    fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
    other = LogisticRegression().fit(x, np.where(y, "stroke", "none"))
    first = LogisticRegression().fit(x, y)
    return {
        "a fitted pipeline": lambda: adapter_for(fitted).tensors(fitted),
        "an estimator that is not fitted": lambda: SklearnAdapter().tensors(LogisticRegression()),
        "an estimator without coefficients": lambda: SklearnAdapter().tensors(GaussianNB().fit(x, y)),
        "a support vector machine": lambda: SklearnAdapter().tensors(SVC(kernel="linear").fit(x, y)),
        "averaged SGD": lambda: SklearnAdapter().tensors(SGDClassifier(average=True).fit(x, y)),
        "other classes than agreed": lambda: SklearnAdapter(classes=[0, 1, 2]).tensors(first),
        "a mean of other classes": lambda: SklearnAdapter().load(first, SklearnAdapter().tensors(other)),
        "a class of an estimator": lambda: adapter_for(LogisticRegression),
    }


def torch_uses() -> dict[str, Use]:
    import torch
    from torch import nn

    from client_sdk.adapters import TorchAdapter, TorchGradients

    net = nn.Linear(2, 1)
    complex_one = nn.Module()
    complex_one.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return {
        "a state_dict for a module": lambda: TorchAdapter().tensors(net.state_dict()),  # type: ignore[arg-type]
        "a lazy module": lambda: TorchAdapter().tensors(nn.LazyLinear(2)),
        "a module on the meta device": lambda: TorchAdapter().tensors(nn.Linear(2, 2, device="meta")),
        "complex parameters": lambda: TorchAdapter().tensors(complex_one),
        "gradients before backward": lambda: TorchGradients().tensors(nn.Linear(2, 2)),
        "a mean of float64": lambda: TorchAdapter().load(net, {"weight": np.zeros((1, 2)), "bias": np.zeros(1)}),
        "another architecture": lambda: TorchAdapter().load(nn.Linear(3, 1), TorchAdapter().tensors(net)),
        "a module without parameters": lambda: TorchAdapter().tensors(nn.ReLU()),
        "torch tensors as an update": sent({"w": torch.zeros(4), "b": torch.zeros((), dtype=torch.float64)}),
        "a tensor with gradient as data": asked(analytics.Histogram((0, 1)), torch.ones(3, requires_grad=True)),
    }


def pandas_uses() -> dict[str, Use]:
    import pandas as pd

    return {
        "a DataFrame with text in it": asked(
            analytics.Moments([Grid(1, 0, 99)] * 2), pd.DataFrame({"age": [50, 60], "sex": ["f", "m"]})
        ),
        "a DataFrame of more columns": asked(analytics.Histogram((0, 1)), pd.DataFrame({"a": [0.1], "b": [0.2]})),
        "a column with pd.NA": asked(analytics.Histogram((0, 1)), pd.Series([0.5, pd.NA], dtype="Float64")),
        "a column of Timestamps": asked(analytics.Histogram((0, 1)), pd.Series(pd.to_datetime(["2026-01-01"]))),
        "a column of categories": asked(analytics.Histogram((0, 1)), pd.Series(["low", "high"], dtype="category")),
        "a DataFrame as an update": sent(pd.DataFrame({"w": [0.0, 0.0, 0.0]})),
    }


@contextlib.contextmanager
def closed(config: Path) -> Iterator[Site]:
    site = Site.open(config)
    site.close()
    yield site


def site_uses(federation: Any, other: Any, folder: Path) -> dict[str, Use]:
    """Uses of an open site, and of its files.

    Args:
        federation: started, with its sites' files.
        other: another one.
    """
    name = federation.sites[0] if hasattr(federation, "sites") else "hospital-a"
    config = federation.config(name)
    mine = federation.update(name)

    def at(use: Callable[[Site], Any]) -> Use:
        def done() -> Any:
            with Site.open(config) as site:
                return use(site)

        return done

    def configured(text: str) -> Use:
        path = federation.directory(name) / f"wrong-{abs(hash(text))}.toml"
        path.write_text(text)
        return lambda: Site.open(path).close()

    def changed(before: str, after: str) -> Use:
        text = config.read_text()
        assert before in text, text
        return configured(text.replace(before, after))

    def after_closing() -> Any:
        with closed(config) as site:
            return site.current()

    def foreign(what: str) -> Use:
        theirs = other.directory(name) / what
        return lambda: Site.open(config, **{what.removesuffix(".json"): theirs}).close()

    return {
        "a site.toml that there is not": lambda: Site.open(folder / "no.toml"),
        "a folder as site.toml": lambda: Site.open(folder),
        "a site.toml that is no TOML": configured("url: https://x\n"),
        "an empty site.toml": configured(""),
        "a setting that there is not": configured(config.read_text() + 'colour = "red"\n'),
        "a number as text": configured(config.read_text().replace("patience_s = 60", 'patience_s = "60"')),
        "a url without scheme": changed(f'url = "{federation.server.url}"', 'url = "aggregator.example:443"'),
        "a url of another scheme": changed(f'url = "{federation.server.url}"', 'url = "ftp://aggregator.example"'),
        "an identity that there is not": changed('identity = "identity"', 'identity = "nobody"'),
        "a keystore for an identity": changed('identity = "identity"', 'identity = "keystore"'),
        "an identity for a keystore": changed('keystore = "keystore"', 'keystore = "identity"'),
        "a folder as a keystore": changed('keystore = "keystore"', 'keystore = "."'),
        "another federation's keystore": foreign("keystore"),
        "another federation's roster": foreign("roster.json"),
        "a site that was closed": after_closing,
        "a round of another federation": at(lambda site: site.fetch("elsewhere.1.1")),
        "text that is no round": at(lambda site: site.fetch("latest")),
        "a round that never was": at(lambda site: site.fetch(f"{federation.name}.9.1")),
        "the mean before there is one": at(lambda site: site.fetch()),
        "resume without a submission": at(lambda site: site.current().resume()),
        "finishing a submission that there is not": at(lambda site: site.current().take_part()),
        "an update without weight": at(lambda site: site.current().take_part(mine.tensors)),
        "an update that does not fit": at(lambda site: site.current().submit({"w": np.zeros(3)}, 1)),
        "a weight above the cap, at a site": at(lambda site: site.current().submit(mine.tensors, 10**9)),
        "an option that there is not": at(lambda site: site.current().submit(mine.tensors, 1, rounding="up")),  # type: ignore[arg-type]
        "an analysis on a plan for a model": at(lambda site: analytics.run(site, analytics.Histogram((0, 1)), [0.5])),
        "a training on another model's plan": at(lambda site: train(site, {"w": np.zeros(2)}, lambda m, t: (m, 1))),
    }


def answered(use: Use) -> BaseException | None:
    """Do it, and return what came; None if nothing did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            use()
        except Exception as error:
            return error
    return None
