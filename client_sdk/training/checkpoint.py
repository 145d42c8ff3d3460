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

__all__ = ["Checkpoint", "Pending", "State", "hand_over"]

VERSION = 1
_META = "he-agg/meta"
_NO_SITE = ""
"""In the place of a site's name: handed over, and nobody's yet."""


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
        handed_over: whether another site wrote it for this one: what is a site's own is not in it.
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
    handed_over: bool = False


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
        read = None if self.path is None else _read(self.path)
        if read is None:
            return None
        theirs = read[0]["identity"]
        handed_over = theirs.get("site") == _NO_SITE
        if theirs | ({"site": self.identity["site"]} if handed_over else {}) != self.identity:
            first = next((key for key in self.identity if theirs.get(key) != self.identity[key]), "identity")
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"checkpoint {self.path}: expected {first} {self.identity.get(first)!r}, got {theirs.get(first)!r}",
                "name another file; one checkpoint belongs to one site, federation and recipe, and what another site "
                "has is taken over by `hand_over`",
            )
        state = _state_of(*read)
        state.handed_over = handed_over
        return state


def hand_over(checkpoint: str | Path, out: str | Path) -> int:
    """Write what another site needs to go on with a training: all that the sites share, and nothing of this one alone.

    For a hospital that joined later, or that missed rounds which it cannot open. It takes the file as its `checkpoint`.
    The program that trains here may be running meanwhile. The file holds the model: send it as you would send that.

    Args:
        checkpoint: of this site's `train`.
        out: a file that does not exist yet. Mode 0600.

    Returns:
        Number of the last round in it. Who takes it over needs to be able to open those after.

    Raises:
        ConfigError: no checkpoint, or a damaged one; or `out` exists or cannot be written.
    """
    source, target = Path(checkpoint), Path(out)
    read = _read(source)
    if read is None:
        raise ConfigError(
            Reason.FILE_MISSING,
            f"checkpoint {source}: expected a training checkpoint, got none",
            "give the file that `train` has as `checkpoint`",
        )
    if target.exists():
        raise ConfigError(
            Reason.FILE_EXISTS, f"{target} exists; it is never overwritten", "move it away first, or name another file"
        )
    state = _state_of(*read)
    state.local, state.residual, state.pending = {}, {}, None
    state.history = [entry | {"took_part": False} for entry in state.history]
    Checkpoint(target, read[0]["identity"] | {"site": _NO_SITE}).save(state)
    return state.round


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensors]] | None:
    """Read a file's facts and groups of tensors; None if there is none yet."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            meta: dict[str, Any] = json.loads(str(file[_META]))
            arrays = (file[f"a{i}"] for i in itertools.count())
            groups = {group: {name: next(arrays) for name in names} for group, names in meta["tensors"].items()}
            version = meta["v"]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise file_trouble(error, f"checkpoint {path}") from error
    except Exception as error:  # numpy, zipfile and json raise half a dozen types for a damaged file
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"checkpoint {path}: expected a training checkpoint, got a damaged one or something else",
            "take over what another site has, by `hand_over`, or remove the file to start at round 1",
        ) from error
    if version != VERSION:
        raise ConfigError(
            Reason.BAD_CONFIG, f"checkpoint {path}: expected version {VERSION!r}, got {version!r}", "name another file"
        )
    return meta, groups


def _state_of(meta: dict[str, Any], groups: dict[str, Tensors]) -> State:
    facts: dict[str, Any] = {name: meta[name] for name in ("round", "done", "memory", "history")}
    facts |= {name: groups[name] for name in _GROUPS}
    under_way: dict[str, Any] | None = meta["pending"]
    if under_way is not None:
        tensors: dict[str, Any] = {name: groups[f"pending {name}"] for name in _PENDING}
        facts["pending"] = Pending(**under_way, **tensors)
    return State(**facts)
