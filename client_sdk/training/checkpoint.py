"""Keep what a training site would lose in a crash, in one file that is replaced as a whole."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from client_sdk.compression.base import Tensors
from he_agg.errors import ConfigError, Reason
from he_agg.host.files import file_trouble, replace

__all__ = ["Checkpoint", "Pending", "State"]

VERSION = 1
_META = "he-agg/meta"


@dataclass
class Pending:
    """What this site has made for a step that is not finished. Written before anything of it is uploaded.

    Attributes:
        round: number of the round that `payload` is for.
        round_ids: the attempts that it was handed to.
        target: the update with what was left over before.
        payload: what travels in the round, complete.
        local: the model's local state after local training.
        counts: what the evaluation counted before it.
    """

    round: int
    weight: int
    round_ids: list[str] = field(default_factory=list)
    target: Tensors = field(default_factory=dict)
    payload: Tensors = field(default_factory=dict)
    local: Tensors = field(default_factory=dict)
    counts: Tensors = field(default_factory=dict)


@dataclass
class State:
    """Where a site's training stands.

    Attributes:
        round: number of the last round whose mean was applied.
        done: why training is over; empty while it is not.
        best: the best model so far, if a stopping rule keeps one.
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
_PENDING = ("target", "payload", "local", "counts")


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the state of a training.

    Attributes:
        path: where it is; None keeps nothing.
        identity: whose it is; a file with another one is refused.
    """

    path: Path | None
    identity: dict[str, str]

    def save(self, state: State) -> None:
        """Replace the file. After a crash at any moment the old or the new one is there, whole. Mode 0600."""
        if self.path is None:
            return
        groups: dict[str, Tensors] = {name: getattr(state, name) for name in _GROUPS}
        meta: dict[str, Any] = {"v": VERSION, "identity": self.identity, "round": state.round, "done": state.done}
        meta |= {"memory": state.memory, "history": state.history, "pending": None}
        if (pending := state.pending) is not None:
            meta["pending"] = {"round": pending.round, "weight": pending.weight, "round_ids": pending.round_ids}
            groups |= {f"pending {name}": getattr(pending, name) for name in _PENDING}
        # Names as data: a tensor may be called anything, members of a zip may not.
        meta["tensors"] = {group: list(tensors) for group, tensors in groups.items()}
        members = {_META: np.array(json.dumps(meta))}
        members |= {f"a{i}": array for i, array in enumerate(a for group in groups.values() for a in group.values())}
        try:
            replace(self.path, lambda file: np.savez(file, allow_pickle=False, **members))
        except OSError as error:
            raise file_trouble(error, f"checkpoint {self.path}") from error

    def load(self) -> State | None:
        """Read the file; None if there is none yet."""
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                meta = json.loads(str(file[_META]))
                arrays = (file[f"a{i}"] for i in itertools.count())
                groups: dict[str, Any] = {
                    group: {name: next(arrays) for name in names} for group, names in meta["tensors"].items()
                }
        except FileNotFoundError:
            return None
        except Exception as error:  # numpy, zipfile and json raise half a dozen types for a damaged file
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"checkpoint {self.path}: expected a training checkpoint, cannot read it: {error}",
                "take the checkpoint of another site of this federation, or remove the file to start at round 1",
            ) from error
        if meta.get("v") != VERSION or meta["identity"] != self.identity:
            theirs = meta.get("identity", {})
            first = next((key for key in self.identity if theirs.get(key) != self.identity[key]), "version")
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"checkpoint {self.path}: expected {first} {self.identity.get(first, VERSION)!r}, "
                f"got {theirs.get(first)!r}",
                "name another file; one checkpoint belongs to one site, federation and recipe",
            )
        facts: dict[str, Any] = {name: meta[name] for name in ("round", "done", "memory", "history")}
        facts |= {name: groups[name] for name in _GROUPS}
        under_way: dict[str, Any] | None = meta["pending"]
        if under_way is not None:
            facts["pending"] = Pending(**under_way, **{name: groups[f"pending {name}"] for name in _PENDING})
        return State(**facts)
