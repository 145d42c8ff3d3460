"""What a job has NVFlare build on its server beside the components of a scheme. Runs in the environment of NVFlare."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from nvflare.apis.dxo import from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.app_common.abstract.model import make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from benchmarks.frameworks.task import initial

__all__ = ["Alter", "Initial", "Witness"]


class Initial(ModelPersistor):  # type: ignore[misc,unused-ignore]
    """Loads the initial weights, and saves what a server has after each round: arrays, or NVFlare's ciphertexts."""

    def __init__(self, width: int, seed: int, out: str, filter_id: str | None = None) -> None:
        super().__init__(filter_id=filter_id)
        self.width, self.seed, self.out = width, seed, out

    def load_model(self, fl_ctx: Any) -> Any:
        """Return them."""
        return make_model_learnable(initial(self.width, self.seed), {})

    def save_model(self, model: Any, fl_ctx: Any) -> None:
        """Write it where the checker looks."""
        weights = model["weights"].items()
        arrays: Any = {n: np.frombuffer(some, np.uint8) if isinstance(some, bytes) else some for n, some in weights}
        np.savez(Path(self.out) / "server.npz", **arrays)


class Witness(FLComponent):  # type: ignore[misc,unused-ignore]
    """On the server: writes down when each round begins and ends, and what there is to read in each result."""

    def __init__(self, out: str) -> None:
        super().__init__()
        self.out = out

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Look."""
        kinds = {
            AppEventType.ROUND_STARTED: "start",
            AppEventType.ROUND_DONE: "end",
            EventType.ABOUT_TO_END_RUN: "over",
        }
        if event_type in kinds:
            self._write("clock", {"event": kinds[event_type], "time": time.time()})
        elif event_type == AppEventType.BEFORE_CONTRIBUTION_ACCEPT:
            result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
            dxo = from_shareable(result)
            others = sorted(key for key in result if not key.startswith("__"))
            self._write("results", {"keys": others, "meta": repr(dxo.meta), "data": sorted(dxo.data)})

    def _write(self, name: str, line: dict[str, Any]) -> None:
        with (Path(self.out) / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


class Alter(FLComponent):  # type: ignore[misc,unused-ignore]
    """A server that is not honest: alters a sum before it goes out."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def handle_event(self, event_type: str, fl_ctx: Any) -> None:
        """Flip a bit of a residue, or leave a site out of the list."""
        if event_type == AppEventType.AFTER_AGGREGATION:
            record = fl_ctx.get_prop(AppConstants.AGGREGATION_RESULT)["he-agg"]
            if self.what == "residue":
                part = bytearray(record["parts"][-1])
                part[80] ^= 1
                record["parts"][-1] = bytes(part)
            elif self.what == "site":
                del record["claims"][0]
