"""A site's training in a process of its own, which may kill itself on the way."""

import os
import signal
import sys

from client_sdk import Site
from client_sdk.training import BinaryScores, FedAdam, train
from tests.support.regression import evaluate_for, fit_for, model


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def run(config, checkpoint, index, when):
    """Four rounds; dies in the second one `when` that comes: "fit", "hook", or a phase's event. Prints the result."""

    def note(event):
        name = type(event).__name__ + ":" + event.phase if hasattr(event, "phase") else ""
        if when == name and event.round_id.split(".")[1] == "2":
            die()

    fit = fit_for(int(index), after=(lambda task: die() if task.step == 2 else None) if when == "fit" else None)
    hooks = [lambda report: die() if report.round == 2 else None] if when == "hook" else []
    with Site.open(config, progress=note) as site:
        result = train(
            site,
            model(),
            fit,
            strategy=FedAdam(0.05),
            evaluate=evaluate_for(int(index)),
            evaluation=BinaryScores(),
            rounds=4,
            checkpoint=checkpoint,
            hooks=hooks,
        )
    print(result.model_hash, result.model["steps"])


if __name__ == "__main__":
    run(*sys.argv[1:])
