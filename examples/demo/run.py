"""The demo: an aggregator and four hospitals as separate processes, on real patients, until the model has converged."""

from __future__ import annotations

import contextlib
import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from examples.demo.audit import audit
from examples.demo.ceremony import found
from examples.demo.data import DATASET, FEATURES, load_shares
from examples.demo.hospital import SHARE
from examples.demo.learner import CLIP, WEIGHT_CAP, Recipe
from examples.demo.model import init_params
from examples.demo.plaintext import fedavg, local_only
from examples.demo.report import print_report, write_report
from examples.demo.summary import PHASES, VERIFIED, Summary
from he_agg import Layout, Plan
from he_agg.host.processes import AggregatorProcess, Process, lines_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run"]

FEDERATION = "flchain-demo"


def run(codec: str, folder: Path, console: Console) -> Summary:
    """Run the demo and write its report.

    Args:
        codec: name of the codec.
        folder: where the report goes.
        console: where progress and the final table go.

    Returns:
        What was found.

    Raises:
        HeAggError: a process failed, or the averages are not what they must be.
    """
    import matplotlib  # noqa: F401 - the picture comes last; who lacks it is told first

    recipe = Recipe()
    with tempfile.TemporaryDirectory(prefix="he-agg-demo-") as scratch, _progress(console) as progress:
        task = progress.add_task("dealing out real patients to four hospitals", total=None)
        shares = load_shares()
        layout = Layout.of(init_params(len(FEATURES), recipe.seed), clip=CLIP, weight_cap=WEIGHT_CAP)
        plan = Plan.create(
            FEDERATION,
            layout,
            codec=codec,
            min_sites=len(shares),
            max_sites=2 * len(shares),
            rounds=recipe.max_rounds,
            deadline_s=600,
        )
        aggregator = AggregatorProcess(Path(scratch) / "aggregator")
        directories = {share.hospital: Path(scratch) / share.hospital for share in shares}
        progress.update(task, description="identities, roster, and a group key that the aggregator never gets")
        with aggregator:
            for share in shares:
                directories[share.hospital].mkdir(mode=0o700)
                share.save(directories[share.hospital] / SHARE)
            found(aggregator, plan, directories)
            progress.update(task, description="waiting for the hospitals")
            scores = _watch(list(directories.values()), progress, task)
        progress.update(task, description="training the same model in the clear, to compare", completed=0, total=None)
        results = [json.loads((directory / "result.json").read_text()) for directory in directories.values()]
        rounds = results[0]["rounds"]
        # As many rounds: by a hair, the rule may stop one of them a round later.
        clear, alone = fedavg(shares, recipe, rounds), local_only(shares, rounds, recipe)
        progress.update(task, description="making every average again in the clear")
        weights = {directories[result["hospital"]]: result["patients"] for result in results}
        checked = audit(plan, weights, rounds)
        summary = Summary(
            codec=codec,
            dataset=DATASET,
            sites=len(shares),
            rounds=rounds,
            values=layout.size,
            encrypted_vs_fixed_point_max_abs_diff=checked.fixed_point,
            encrypted_vs_float_max_abs_diff=checked.floating,
            encrypted_vs_float_bound=checked.bound,
            bytes_per_value_up=_mean(results, "bytes_up") / layout.size,
            bytes_per_value_down=_mean(results, "bytes_down") / layout.size,
            seconds=_seconds(results, aggregator),
            score={
                "local": {name: alone[name].score for name in alone},
                "plaintext": clear.score,
                "encrypted": results[0]["score"],
            },
            score_per_round={"encrypted": scores, "plaintext": clear.score_per_round},
            verified={name: sum(result["verified"][name] for result in results) for name in VERIFIED},
            weights={result["hospital"]: result["patients"] for result in results},
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in ("he-agg", "tenseal", "numpy", "numba")},
            },
        )
    files = write_report(summary, folder)
    print_report(summary, console)
    console.print("Written: " + ", ".join(str(file) for file in files), highlight=False)
    return summary


def _watch(directories: list[Path], progress: Progress, task: Any) -> list[float]:
    """Start a process for each hospital, and show rounds as they finish them.

    Returns:
        The score after each round. All hospitals hold the same model, so the first to tell speaks for all.
    """
    scores: dict[int, float] = {}
    finished: dict[int, int] = {}
    with contextlib.ExitStack() as stack:
        hospitals = [
            stack.enter_context(
                Process([sys.executable, "-m", "examples.demo.hospital", str(directory)], directory / "stderr.log")
            )
            for directory in directories
        ]
        for event in map(json.loads, lines_of(hospitals)):
            if event["event"] != "round":
                continue
            number = event["number"]
            scores.setdefault(number, event["score"])
            finished[number] = finished.get(number, 0) + 1
            progress.update(
                task,
                description=f"round {number}: AUC {event['score']:.4f}",
                completed=finished[number],
                total=len(directories),
            )
            if finished[number] == len(directories):
                progress.console.print(f"  round {number:>2}   AUC {scores[number]:.4f}", highlight=False)
    return [scores[number] for number in sorted(scores)]


def _seconds(results: list[dict[str, Any]], aggregator: AggregatorProcess) -> dict[str, float]:
    seconds = {phase: sum(result["seconds"].get(phase, 0.0) for result in results) / len(results) for phase in PHASES}
    seconds["fold"] = sum(event["ms"] for event in aggregator.log_lines if event.get("message") == "published") / 1000
    return seconds


def _mean(results: list[dict[str, Any]], name: str) -> float:
    return float(sum(result[name] for result in results)) / len(results)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
