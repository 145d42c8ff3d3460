"""A site's training script, written for NVFlare's Client API. No scheme changes a line of it.

python training.py --patients FOLDER --width WIDTH --out FOLDER [--fault WHAT:SITE:ROUND]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType

from benchmarks.frameworks.task import Weights, initial, patients_of, train


def main() -> None:
    """Train as long as tasks come."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--patients", type=Path)
    parser.add_argument("--width", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fault", default="")
    options = parser.parse_args()
    shapes = {name: array.shape for name, array in initial(options.width, 0).items()}
    flare.init()
    site = flare.get_site_name()
    patients = patients_of(options.patients, site)
    while flare.is_running():
        if (task := flare.receive()) is None:
            break
        number = task.current_round
        # NVFlare's own decryptor hands flat lists on.
        model: Weights = {
            name: np.asarray(task.params[name], np.float32).reshape(shape) for name, shape in shapes.items()
        }
        np.savez(options.out / f"{site}.{number}.npz", **model)  # type: ignore[arg-type]
        if options.fault == f"dies:{site}:{number}":
            raise RuntimeError("this site's training fails, as it was told to")
        if options.fault == f"waits:{site}:{number}":
            (options.out / "waiting").touch()
            while (options.out / "waiting").exists():
                time.sleep(0.1)
        after, n = train(model, patients, site, number)
        flare.send(
            FLModel(params=after, params_type=ParamsType.FULL, meta={"NUM_STEPS_CURRENT_ROUND": n, "note": "secret"})
        )


if __name__ == "__main__":
    main()
