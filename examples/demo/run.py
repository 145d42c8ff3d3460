"""The demo: an aggregator and four hospitals as separate processes, on real patients, until the model has converged.

With split keys a trustee holds shares, too. Then one hospital is killed after its upload, later the trustee is, and in
the end the aggregator and one hospital try to read another one's update, under split and under shared keys.
"""

from __future__ import annotations

import contextlib
import json
import platform
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from examples.demo.audit import audit
from examples.demo.ceremony import TRUSTEE, TRUSTEE_SETTINGS, found
from examples.demo.data import DATASET, FEATURES, Share, load_shares
from examples.demo.hospital import SHARE
from examples.demo.learner import CLIP, WEIGHT_CAP, Recipe
from examples.demo.model import init_params
from examples.demo.plaintext import fedavg, local_only
from examples.demo.reading import Reading, try_to_read
from examples.demo.report import hospital_label, print_report, write_report
from examples.demo.summary import PHASES, VERIFIED, Summary
from he_agg import Layout, Plan, ProtocolError, Reason
from he_agg.host.processes import HE_AGG, AggregatorProcess, Process, lines_of
from he_agg.plan.plan import SHARED, SPLIT

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["run"]

FEDERATION = "flchain-demo"
DIES_IN = 2
"""The round after whose upload one hospital is killed, where keys are split."""


def run(codec: str, folder: Path, console: Console, keys: str = SHARED) -> Summary:
    """Run the demo and write its report.

    Args:
        codec: name of the codec.
        folder: where the report goes.
        console: where progress and the final table go.
        keys: how one-time keys travel, "shared" or "split".

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
            keys=keys,
        )
        aggregator = AggregatorProcess(Path(scratch) / "aggregator")
        directories = {share.hospital: Path(scratch) / share.hospital for share in shares}
        progress.update(task, description="identities, roster, and a group key that the aggregator never gets")
        with aggregator:
            for share in shares:
                directories[share.hospital].mkdir(mode=0o700)
                share.save(directories[share.hospital] / SHARE)
            trustee = Path(scratch) / TRUSTEE if plan.public.splits_keys else None
            if trustee is not None:
                trustee.mkdir(mode=0o700)
            found(aggregator, plan, directories, trustee, keep_submissions=trustee is not None)
            progress.update(task, description="waiting for the hospitals")
            watch = _Watch(progress, task, len(directories))
            if trustee is None:
                _train(list(directories.values()), watch)
            else:
                _train_with_trustee(list(directories.values()), trustee, watch)
            scores = watch.in_order
        progress.update(task, description="training the same model in the clear, to compare", completed=0, total=None)
        results = [json.loads((directory / "result.json").read_text()) for directory in directories.values()]
        rounds = results[0]["rounds"]
        # As many rounds: by a hair, the rule may stop one of them a round later.
        clear, alone = fedavg(shares, recipe, rounds), local_only(shares, rounds, recipe)
        progress.update(task, description="making every average again in the clear")
        weights = {directories[result["hospital"]]: result["patients"] for result in results}
        checked = audit(plan, weights, rounds)
        read = {}
        if plan.public.splits_keys:
            progress.update(task, description="trying to read a hospital's update")
            read = {
                SPLIT: str(_read_together(aggregator, FEDERATION, rounds, directories)),
                SHARED: str(_read_under_shared_keys(Path(scratch) / SHARED, shares, layout)),
            }
        summary = Summary(
            codec=codec,
            keys=keys,
            read_together=read,
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


class _Watch:
    """Shows rounds as hospitals finish them. All hold the same model, so the first to tell a score speaks for all."""

    def __init__(self, progress: Progress, task: Any, hospitals: int) -> None:
        self._progress, self._task, self._hospitals = progress, task, hospitals
        self._scores: dict[int, float] = {}
        self.finished: dict[int, int] = {}

    def take(self, line: str) -> int | None:
        """Take what a hospital says; return the round that it has finished by that, if it has."""
        event = json.loads(line)
        if event["event"] != "round":
            return None
        number = int(event["number"])
        self._scores.setdefault(number, event["score"])
        self.finished[number] = self.finished.get(number, 0) + 1
        self._progress.update(
            self._task,
            description=f"round {number}: AUC {event['score']:.4f}",
            completed=self.finished[number],
            total=self._hospitals,
        )
        if self.finished[number] == self._hospitals:
            self.say(f"  round {number:>2}   AUC {self._scores[number]:.4f}")
        return number

    def say(self, text: str) -> None:
        """Print a line above the progress."""
        self._progress.console.print(text, highlight=False)

    @property
    def in_order(self) -> list[float]:
        """The score after each round."""
        return [self._scores[number] for number in sorted(self._scores)]


def _hospital(directory: Path, *dies_in: str) -> Process:
    command = [sys.executable, "-m", "examples.demo.hospital", str(directory), *dies_in]
    return Process(command, directory / "stderr.log")


def _train(directories: list[Path], watch: _Watch) -> None:
    """Start a process for each hospital, and wait until all have finished."""
    with contextlib.ExitStack() as stack:
        hospitals = [stack.enter_context(_hospital(directory)) for directory in directories]
        for line in lines_of(hospitals):
            watch.take(line)


def _train_with_trustee(directories: list[Path], trustee: Path, watch: _Watch) -> None:
    """The same beside a trustee, with one holder away at a time: a hospital that is killed, then the trustee."""
    command = [*HE_AGG, "holder", "run", "--config", str(trustee / TRUSTEE_SETTINGS)]
    with contextlib.ExitStack() as stack:
        holder = stack.enter_context(Process(command, trustee / "stderr.log"))
        holder.line()  # it says that it holds, or why it cannot
        others = [stack.enter_context(_hospital(directory)) for directory in directories[:-1]]
        dying = stack.enter_context(_hospital(directories[-1], str(DIES_IN)))
        for line in dying.lines():
            watch.take(line)
        if dying.wait() != -signal.SIGKILL:
            raise ProtocolError(Reason.INTERNAL, f"{directories[-1].name} ended by itself\n{dying.log[-2000:]}")
        name = hospital_label(directories[-1].name)
        watch.say(f"  {name} is killed, after its upload to round {DIES_IN}; three hospitals and the trustee go on")
        lines = lines_of(others)
        while watch.finished.get(DIES_IN, 0) < len(others):
            watch.take(next(lines))
        again = stack.enter_context(_hospital(directories[-1]))
        while watch.take(again.line()) != DIES_IN:
            pass
        holder.kill()
        watch.say(f"  {name} is back, with the mean of round {DIES_IN}; from now on the trustee is away")
        for line in lines_of([*others, again]):
            watch.take(line)


def _read_together(
    aggregator: AggregatorProcess, federation: str, number: int, directories: dict[str, Path]
) -> Reading:
    """Let the aggregator and the first hospital try to read what the second has sent to a round."""
    (spy, folder), (victim, other), *_ = directories.items()
    with np.load(other / f"update-{number}.npz") as update:
        return try_to_read(aggregator.data_dir, folder, spy, federation, number, victim, dict(update))


def _read_under_shared_keys(folder: Path, shares: list[Share], layout: Layout) -> Reading:
    """Do the same after one round of the same hospitals under shared keys."""
    folder.mkdir(mode=0o700)
    name, directories = f"{FEDERATION}-{SHARED}", {share.hospital: folder / share.hospital for share in shares}
    plan = Plan.create(name, layout, min_sites=len(shares), max_sites=2 * len(shares), rounds=1, deadline_s=600)
    with AggregatorProcess(folder / "aggregator") as aggregator:
        for share in shares:
            directories[share.hospital].mkdir(mode=0o700)
            share.save(directories[share.hospital] / SHARE)
        found(aggregator, plan, directories, keep_submissions=True)
        with contextlib.ExitStack() as stack:
            for _ in lines_of([stack.enter_context(_hospital(directory)) for directory in directories.values()]):
                pass
        return _read_together(aggregator, name, 1, directories)


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
