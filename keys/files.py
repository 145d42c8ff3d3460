"""Files that commands read and write and that are not secret: updates, plans, documents."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from he_agg.errors import ConfigError, HeAggError, InputError, Reason
from he_agg.plan import Plan

__all__ = ["read_npz", "read_plan", "write_new"]


def read_npz(path: Path) -> dict[str, Any]:
    """Read the arrays of an NPZ file, never a pickle.

    Raises:
        InputError: missing, or not an NPZ file of plain arrays.
    """
    try:
        # Opened here: numpy leaves its own file open when the archive in it is broken.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise InputError(Reason.FILE_MISSING, f"{path}: expected an NPZ file, got none") from error
    except Exception as error:  # numpy and zipfile raise half a dozen types for a broken archive
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"{path}: expected an NPZ file of plain arrays, got something else",
            "write it with numpy.savez(path, **tensors)",
        ) from error


def read_plan(path: Path) -> Plan:
    """Read a plan file and check all of it.

    Raises:
        ConfigError: it cannot be read, or is no usable plan.
    """
    try:
        return Plan.parse(path.read_bytes())
    except OSError as error:
        raise ConfigError(Reason.FILE_MISSING, f"{path} cannot be read: {error.strerror}") from error
    except HeAggError as error:
        raise ConfigError(
            error.reason,
            f"{path} is not a usable plan file: {error.message}",
            error.hint or "make one: he-agg plan new",
        ) from error


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet and holds nothing secret.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError as error:
        raise ConfigError(
            Reason.FILE_EXISTS, f"{path} exists; it is never overwritten", "move it away first, or give --out"
        ) from error
    except OSError as error:
        raise ConfigError(Reason.FILE_MISSING, f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
