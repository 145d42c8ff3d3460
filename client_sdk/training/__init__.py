"""Federated training in the framework a site already uses. See docs/training.md.

::

    from client_sdk import Site
    from client_sdk.training import BinaryScores, EarlyStopping, FedAvgM, train

    with Site.open("site.toml") as site:
        result = train(site, model, fit, strategy=FedAvgM(), checkpoint="training.npz",
                       evaluate=predict, evaluation=BinaryScores(), stopping=EarlyStopping("auc"))
"""

from client_sdk.training.agreement import model_hash
from client_sdk.training.checkpoint import hand_over
from client_sdk.training.evaluation import BinaryScores, ClassCounts, Evaluation, MeanLoss
from client_sdk.training.loop import train
from client_sdk.training.recipe import Recipe, training_plan
from client_sdk.training.simulation import simulate
from client_sdk.training.stopping import Converged, EarlyStopping, Stopping
from client_sdk.training.strategies import FedAdam, FedAvg, FedAvgM, FedProx
from client_sdk.training.task import Report, Result, Task

__all__ = [
    "BinaryScores",
    "ClassCounts",
    "Converged",
    "EarlyStopping",
    "Evaluation",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "MeanLoss",
    "Recipe",
    "Report",
    "Result",
    "Stopping",
    "Task",
    "hand_over",
    "model_hash",
    "simulate",
    "train",
    "training_plan",
]
