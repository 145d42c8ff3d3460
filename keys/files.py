"""Files that commands read and write and that are not secret: updates, plans, documents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from he_agg.errors import ConfigError, HeAggError, Reason, WireError
from he_agg.host.files import beside, create, file_trouble, sync_directory
from he_agg.plan.plan import Plan
from he_agg.protocol.wire import refuse_secrets

__all__ = ["read_document", "read_npz", "read_plan", "replace_file", "write_new"]

T = TypeVar("T")


def read_npz(path: Path) -> dict[str, Any]:
    """Read the arrays of an NPZ file, never a pickle."""
    try:
        # Opened here: numpy leaves its own file open when the archive in it is broken.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if not all(name.endswith(".npy") for name in file.zip.namelist()):
                raise ConfigError(
                    Reason.BAD_ARGUMENT,
                    f"{path}: expected an NPZ file of plain arrays, got another archive, such as torch.save writes",
                    "write it with numpy.savez(path, **tensors); of a PyTorch model, "
                    "tensors = TorchAdapter().tensors(model)",
                )
            return {name: file[name] for name in file.files}
    except ConfigError:
        raise
    except FileNotFoundError as error:
        raise ConfigError(
            Reason.FILE_MISSING,
            f"{path}: expected an NPZ file, got none",
            "give the path of what numpy.savez(path, **tensors) wrote",
        ) from error
    except Exception as error:  # numpy and zipfile raise half a dozen types for a broken archive
        raise ConfigError(
            Reason.BAD_ARGUMENT,
            f"{path}: expected an NPZ file of plain arrays, got something else",
            "write it with numpy.savez(path, **tensors)",
        ) from error


def read_plan(path: Path) -> Plan:
    """Read a plan file and check all of it."""
    try:
        return Plan.parse(path.read_bytes())
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be read") from error
    except HeAggError as error:
        raise ConfigError(
            error.reason,
            f"{path} is not a usable plan file: {error.message}",
            error.hint or "make one: `he-agg plan new`",
        ) from error


def read_document(path: Path, parse: Callable[[bytes], T], what: str) -> T:
    """Read a file that is not secret.

    Args:
        what: what it should be, in error messages, such as "a roster".
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be read") from error
    try:
        return parse(content)
    except HeAggError as error:
        _refuse_secret(path, content, what)
        raise ConfigError(
            error.reason,
            f"{path} is not {what}: {error.message}",
            error.hint or "it may have been changed on its way: fetch it again, as a file, not as pasted text",
        ) from error


def _refuse_secret(path: Path, content: bytes, what: str) -> None:
    """Say so if it is a secret that somebody took for something to hand out."""
    try:
        refuse_secrets(content)
    except WireError as error:
        public = path.with_suffix(".public.json").name if path.suffix == ".identity" else ""
        raise ConfigError(
            error.reason,
            f"{path} is or holds a secret key, which never leaves its machine: expected {what}",
            (f"its public half is in {public}; " if public else "")
            + "if this one came from another machine, make a new identity there, or a new epoch",
        ) from None


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that holds nothing secret, in the place of an older one if there is one. Atomic.

    It may be read by whoever could read the older one, and changed by its owner only.
    """
    try:
        mode = path.stat().st_mode & 0o755 if path.exists() else None
        with beside(path, content, 0o644) as temporary:
            if mode is not None:
                temporary.chmod(mode)
            temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be written") from error


def write_new(path: Path, content: bytes) -> None:
    """Write a file that does not exist yet and holds nothing secret."""
    try:
        create(path, content, 0o644)
    except FileExistsError as error:
        raise ConfigError(
            Reason.FILE_EXISTS, f"{path} exists; it is never overwritten", "move it away first, or give --out"
        ) from error
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be written") from error
