"""Keep what a training site would lose in a crash, in one file that is replaced as a whole."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk.compression.base import Tensors
from he_agg.errors import ConfigError, Reason
from he_agg.host.files import replace

__all__ = ["Pending", "State", "load_state", "save_state"]

VERSION = 1
_META = "he-agg/meta"


@dataclass
class Pending:
    """What this site has made for a step that is not finished. Written before anything of it is uploaded.

    Attributes:
        round: number of the round that `payload` is for.
        weight: the site's weight.
        round_ids: the attempts that it was handed to.
        target: the update with what was left over before.
        payload: what travels in the round, complete.
        local: the model's local state after local training, and what the evaluation counted, as `counts|...`.
    """

    round: int
    weight: int
    round_ids: list[str] = field(default_factory=list)
    target: Tensors = field(default_factory=dict)
    payload: Tensors = field(default_factory=dict)
    local: Tensors = field(default_factory=dict)


@dataclass
class State:
    """Where a site's training stands.

    Attributes:
        round: number of the last round whose mean was applied.
        done: why training is over; empty while it is not.
        model: the global model.
        strategy: the strategy's state.
        common: the compression's common state.
        local: the model's local state.
        residual: the compression's local state.
        best: the best model so far, if a stopping rule keeps one.
        memory: of the stopping rule.
        history: one entry per round.
        pending: what is under way.
    """

    model: Tensors
    round: int = 0
    done: str = ""
    strategy: Tensors = field(default_factory=dict)
    common: Tensors = field(default_factory=dict)
    local: Tensors = field(default_factory=dict)
    residual: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    pending: Pending | None = None


_GROUPS = ("model", "strategy", "common", "local", "residual", "best")
_PENDING = ("target", "payload", "local")


def save_state(path: Path, state: State, identity: dict[str, str]) -> None:
    """Replace the checkpoint. After a crash at any moment the old or the new one is there, whole. Mode 0600.

    Args:
        identity: whose it is; `load_state` wants the same.

    Raises:
        ConfigError: it cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for group in _GROUPS:
        arrays |= {f"{group}|{name}": array for name, array in getattr(state, group).items()}
    meta: dict[str, Any] = {"v": VERSION, "identity": identity, "round": state.round, "done": state.done}
    meta |= {"memory": state.memory, "history": state.history, "pending": None}
    if (pending := state.pending) is not None:
        meta["pending"] = {"round": pending.round, "weight": pending.weight, "round_ids": pending.round_ids}
        for group in _PENDING:
            arrays |= {f"pending-{group}|{name}": array for name, array in getattr(pending, group).items()}
    # Names as data: a tensor may be called anything, members of a zip may not.
    members = {_META: np.array(json.dumps(meta | {"names": list(arrays)}))}
    members |= {f"a{i}": array for i, array in enumerate(arrays.values())}
    try:
        replace(path, lambda file: np.savez(file, allow_pickle=False, **members))
    except OSError as error:
        raise ConfigError(
            Reason.BAD_CONFIG, f"checkpoint {path}: {error.strerror}", "see that its directory can be written"
        ) from error


def load_state(path: Path, identity: dict[str, str]) -> State | None:
    """Read a checkpoint; None if there is none yet.

    Raises:
        ConfigError: it is damaged, or of another site, plan or recipe.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            meta = json.loads(str(file[_META]))
            arrays = {name: file[f"a{i}"] for i, name in enumerate(meta["names"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"checkpoint {path}: expected a training checkpoint, cannot read it: {error}",
            "take the checkpoint of another site of this federation, or remove the file to start at round 1",
        ) from error
    if meta.get("v") != VERSION or meta["identity"] != identity:
        theirs = meta.get("identity", {})
        first = next((key for key in identity if theirs.get(key) != identity[key]), "version")
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"checkpoint {path}: expected {first} {identity.get(first, VERSION)!r}, got {theirs.get(first)!r}",
            "name another file; one checkpoint belongs to one site, federation and recipe",
        )

    def group(prefix: str) -> Tensors:
        return {name.partition("|")[2]: array for name, array in arrays.items() if name.partition("|")[0] == prefix}

    pending = None
    if meta["pending"] is not None:
        facts = meta["pending"]
        pending = Pending(facts["round"], facts["weight"], facts["round_ids"])
        for name in _PENDING:
            setattr(pending, name, group(f"pending-{name}"))
    return State(
        round=meta["round"],
        done=meta["done"],
        memory=meta["memory"],
        history=meta["history"],
        pending=pending,
        **{name: group(name) for name in _GROUPS},
    )
