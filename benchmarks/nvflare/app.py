"""What runs inside NVFlare: initial weights, and sites that learn something known from them. The same in every job.

Runs in the environment of NVFlare; `update_of` is also what a checker repeats without it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["initial", "update_of", "weight_of"]


def initial(values: int) -> dict[str, np.ndarray]:
    """Return the weights that all sites start from: a matrix and a vector."""
    rows = values // 10
    draws = np.random.default_rng(0).uniform(-1, 1, values).astype(np.float32)
    return {"layer.w": draws[: 9 * rows].reshape(9, rows), "layer.b": draws[9 * rows :]}


def update_of(site: str, number: int, model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what a site's training makes of the global model in a round; the first is round 0."""
    rng = np.random.default_rng([int(site.rpartition("-")[2]), number])
    return {
        name: array + (rng.uniform(-0.05, 0.05, array.shape) - 0.01 * array).astype(np.float32)
        for name, array in model.items()
    }


def weight_of(site: str) -> int:
    """Return a site's number of examples."""
    return 100 + 37 * int(site.rpartition("-")[2])


try:
    from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
    from nvflare.apis.event_type import EventType
    from nvflare.apis.executor import Executor
    from nvflare.apis.fl_component import FLComponent
    from nvflare.app_common.abstract.model import make_model_learnable
    from nvflare.app_common.abstract.model_persistor import ModelPersistor
    from nvflare.app_common.app_constant import AppConstants
    from nvflare.app_common.app_event_type import AppEventType
except ImportError:
    pass
else:

    class Learner(Executor):
        """A site's training. `fault` is what goes wrong, such as "dies:site-2:1", in its round 1."""

        def __init__(self, out: str, fault: str = "") -> None:
            super().__init__()
            self.out, self.fault = out, fault

        def execute(self, task_name: str, shareable: Any, fl_ctx: Any, abort_signal: Any) -> Any:
            site, number = fl_ctx.get_identity_name(), shareable.get_header(AppConstants.CURRENT_ROUND)
            data = from_shareable(shareable).data
            shapes = {name: array.shape for name, array in initial(sum(np.size(a) for a in data.values())).items()}
            # NVFlare's own decryptor hands flat lists on.
            model: dict[str, Any] = {
                name: np.asarray(data[name], np.float32).reshape(shape) for name, shape in shapes.items()
            }
            np.savez(Path(self.out) / f"{site}.{number}.npz", **model)
            if self.fault == f"dies:{site}:{number}":
                raise RuntimeError("this site's training fails, as it was told to")
            after = update_of(site, number, model)
            return DXO(
                DataKind.WEIGHTS, data=after, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: weight_of(site), "note": "secret"}
            ).to_shareable()

    class Initial(ModelPersistor):
        """Loads the initial weights, and saves what a server has after each round."""

        def __init__(self, values: int, out: str, filter_id: str | None = None) -> None:
            super().__init__(filter_id=filter_id)
            self.values, self.out = values, out

        def load_model(self, fl_ctx: Any) -> Any:
            return make_model_learnable(initial(self.values), {})

        def save_model(self, model: Any, fl_ctx: Any) -> None:
            weights = model["weights"]
            if all(isinstance(array, np.ndarray) for array in weights.values()):
                np.savez(Path(self.out) / "server.npz", **weights)

    class Witness(FLComponent):
        """On the server: writes down when each round begins and ends, and what there is to read in each result."""

        def __init__(self, out: str) -> None:
            super().__init__()
            self.out = out

        def handle_event(self, event_type: str, fl_ctx: Any) -> None:
            if event_type in (AppEventType.ROUND_STARTED, AppEventType.ROUND_DONE, EventType.ABOUT_TO_END_RUN):
                self._write("clock", {"event": event_type, "time": time.time()})
            elif event_type == AppEventType.BEFORE_CONTRIBUTION_ACCEPT:
                result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
                dxo = from_shareable(result)
                others = sorted(key for key in result if not key.startswith("__"))
                self._write("results", {"keys": others, "meta": repr(dxo.meta), "data": sorted(dxo.data)})

        def _write(self, name: str, line: dict[str, Any]) -> None:
            with (Path(self.out) / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    class Alter(FLComponent):
        """A server that is not honest: alters a sum before it goes out."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

        def handle_event(self, event_type: str, fl_ctx: Any) -> None:
            if event_type == AppEventType.AFTER_AGGREGATION:
                record = fl_ctx.get_prop(AppConstants.AGGREGATION_RESULT)["he-agg"]
                if self.what == "residue":
                    part = bytearray(record["parts"][-1])
                    part[80] ^= 1
                    record["parts"][-1] = bytes(part)
                elif self.what == "site":
                    del record["claims"][0]
