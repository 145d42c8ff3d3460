"""Make an NVFlare job as its users write one, and run it in the simulator, with a Python that has NVFlare."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmarks.frameworks.task import SITES

__all__ = ["allow", "environment", "job", "nvflare_version", "simulate", "why_no_nvflare"]

_APP = "benchmarks.frameworks.nvflare.app"
_SCRIPT = Path(__file__).with_name("training.py")
_OURS = "client_sdk.nvflare"
_HE = "nvflare.app_opt.he"
_EXECUTOR = "nvflare.app_common.executors.client_api_executor.ClientAPIExecutor"

Launch = Literal["in_process", "once", "each_task"]


@cache
def nvflare_version(python: str) -> str:
    """Which version of NVFlare a Python has; empty if none, or if it has no he-agg."""
    code = "from importlib.metadata import version; import client_sdk, nvflare; print(version('nvflare'))"
    if not Path(python).is_file():
        return ""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def why_no_nvflare(python: str) -> str:
    """Say why jobs cannot be run with a Python; empty if they can."""
    return "" if nvflare_version(python) else f"nvflare and he-agg are not both installed for {python}"


def job(
    folder: Path,
    scheme: str,
    *,
    patients: Path,
    width: int,
    rounds: int,
    out: Path,
    seed: int = 0,
    keystore: str = "",
    federation: str = "",
    fault: str = "",
    alter: str = "",
    min_clients: int = len(SITES),
    options: dict[str, Any] | None = None,
    other_keystore: str = "",
    launch: Launch = "in_process",
) -> Path:
    """Write the folder of a job, which is the same for all schemes but for the components that the scheme replaces.

    Args:
        scheme: "he-agg", "tenseal" or "plaintext".
        out: where sites and server leave what they saw.
        options: arguments of our `ModelEncryptor`.
        other_keystore: what the last site takes instead.
        launch: how NVFlare runs the training script: one that a site has, in the process of the job; or the job's own,
            in a process for the whole job, which answers with differences, or in another one for each task.
    """
    parts: dict[str, tuple[Any, ...]] = {
        "he-agg": (
            component("aggregator", f"{_OURS}.server.SumAggregator", federation=federation),
            component("shareable_generator", f"{_OURS}.server.SumShareableGenerator"),
            [component("persistor", f"{_OURS}.server.SumPersistor", persistor_id="initial")],
            {"path": f"{_OURS}.client.ModelDecryptor", "args": {"keystore": keystore}},
            {"path": f"{_OURS}.client.ModelEncryptor", "args": options or {}},
        ),
        "tenseal": (
            component(
                "aggregator",
                f"{_HE}.intime_accumulate_model_aggregator.HEInTimeAccumulateWeightedAggregator",
                expected_data_kind="WEIGHTS",
                weigh_by_local_iter=False,
            ),
            component("shareable_generator", f"{_HE}.model_shareable_generator.HEModelShareableGenerator"),
            [component("model_serialize_filter", f"{_HE}.model_serialize_filter.HEModelSerializeFilter")],
            {"path": f"{_HE}.model_decryptor.HEModelDecryptor", "args": {}},
            {"path": f"{_HE}.model_encryptor.HEModelEncryptor", "args": {"weigh_by_local_iter": True}},
        ),
        "plaintext": (
            component(
                "aggregator",
                "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator",
                expected_data_kind="WEIGHTS",
            ),
            component(
                "shareable_generator",
                "nvflare.app_common.shareablegenerators.full_model_shareable_generator.FullModelShareableGenerator",
            ),
            [],
            None,
            None,
        ),
    }
    aggregator, generator, others, decryptor, encryptor = parts[scheme]
    serialize = "model_serialize_filter" if scheme == "tenseal" else None
    initial = component("initial", f"{_APP}.Initial", width=width, seed=seed, out=str(out), filter_id=serialize)
    workflow = component(
        "workflow",
        "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
        min_clients=min_clients,
        num_rounds=rounds,
        wait_time_after_min_received=0 if min_clients == len(SITES) else 20,
        aggregator_id="aggregator",
        persistor_id="persistor" if scheme == "he-agg" else "initial",
        shareable_generator_id="shareable_generator",
        task_check_period=0.1,
        snapshot_every_n_rounds=0,
    )
    components = [aggregator, generator, initial, *others, component("witness", f"{_APP}.Witness", out=str(out))]
    components += [component("alter", f"{_APP}.Alter", what=alter)] if alter else []
    server = {"format_version": 2, "workflows": [workflow], "components": components}
    words = ["--width", str(width), "--out", str(out), *(["--fault", fault] if fault else [])]
    client: dict[str, Any] = {
        "format_version": 2,
        "executors": [{"tasks": ["train"], "executor": _executor(launch, ["--patients", str(patients), *words])}],
        "task_data_filters": [{"tasks": ["train"], "filters": [decryptor]}] if decryptor else [],
        "task_result_filters": [{"tasks": ["train"], "filters": [encryptor]}] if encryptor else [],
        "components": [],
    }
    with_other = {"app": ["server", *SITES[:-1]], "other": [SITES[-1]]}
    apps = with_other if other_keystore else {"app": ["@ALL"]}
    meta = {"name": scheme, "deploy_map": apps, "min_clients": min_clients, "resource_spec": {}}
    out.mkdir(parents=True, exist_ok=True)
    for app in apps:
        config = folder / app / "config"
        config.mkdir(parents=True)
        if launch != "in_process":
            config.with_name("custom").mkdir()
            shutil.copy(_SCRIPT, config.with_name("custom"))
        (config / "config_fed_server.json").write_text(json.dumps(server, indent=1))
        text = json.dumps(client, indent=1)
        (config / "config_fed_client.json").write_text(
            text.replace(json.dumps(keystore), json.dumps(other_keystore)) if app == "other" else text
        )
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    return folder


def _executor(launch: Launch, words: list[str]) -> dict[str, Any]:
    """Return what NVFlare's ScriptRunner makes of a script."""
    arguments: dict[str, Any] = {
        "execution_mode": "in_process" if launch == "in_process" else "external_process",
        "params_exchange_format": "numpy",
        "server_expected_format": "numpy",
        "params_transfer_type": "DIFF" if launch == "once" else "FULL",
    }
    if launch == "in_process":
        arguments |= {"task_script_path": str(_SCRIPT), "task_script_args": shlex.join(words)}
    else:
        arguments |= {"command": ["python", "-u", f"custom/{_SCRIPT.name}", *words], "launch_once": launch == "once"}
    return {"path": _EXECUTOR, "args": arguments}


def component(name: str, path: str, **arguments: Any) -> dict[str, Any]:
    """Return a component of a server's configuration."""
    return {"id": name, "path": path, "args": arguments}


def allow(resources: Path, default: Path | None = None) -> None:
    """Let a machine's NVFlare build our components, as its administrator does: by itself it builds only its own.

    Args:
        default: where the list of those is, if `resources` has none.
    """
    settings: dict[str, Any] = json.loads(resources.read_text()) if resources.exists() else {"format_version": 2}
    allowed = settings.get("class_allow_list") or (
        json.loads(default.read_text())["class_allow_list"] if default else ["nvflare."]
    )
    settings["class_allow_list"] = [*allowed, f"{_OURS}.", f"{_APP}.", _EXECUTOR]
    resources.parent.mkdir(parents=True, exist_ok=True)
    resources.write_text(json.dumps(settings, indent=1))


def environment(python: str) -> dict[str, str]:
    """Return the variables of NVFlare's processes: scripts take its Python, and all of them one core."""
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONWARNINGS": "ignore", "OPENBLAS_NUM_THREADS": "1"}


def simulate(python: str, folder: Path, workspace: Path) -> str:
    """Run a job in NVFlare's simulator, and return what it wrote to its logs and to the terminal."""
    allow(workspace / "local" / "resources.json")
    command = [python, "-m", "nvflare.cli", "simulator", str(folder), "-w", str(workspace), "-c", ",".join(SITES)]
    done = subprocess.run(
        [*command, "-t", str(len(SITES))],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment(python),
    )
    return done.stdout + done.stderr
