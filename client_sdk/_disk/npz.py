"""NPZ files of a mean: written whole or not at all, and under any tensor name."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import ConfigError, Reason
from he_agg.host.files import beside, file_trouble
from he_agg.host.shell import quoted

__all__ = ["check_free", "write_npz"]


def check_free(path: Path, force: bool) -> None:
    """Refuse a name that is taken, or a directory that is not there, before hours are spent on what goes there."""
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(
            Reason.FILE_MISSING,
            f"{path}: expected a file name in a directory that exists",
            f"name a file, and make its directory first: mkdir -p {quoted(path.parent)}",
        )
    if path.exists() and not force:
        raise _exists(path)


def write_npz(path: Path, tensors: Mapping[str, NDArray[Any]], force: bool) -> None:
    """Write arrays where `numpy.load` finds them. Mode 0600: a mean is for the site that fetched it.

    `numpy.savez` takes tensors as keyword arguments and so cannot store one named "file".
    """
    try:
        with beside(path, partial(_write, tensors)) as temporary:
            if force:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, it fails when the name is taken
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be written") from error


def _write(tensors: Mapping[str, NDArray[Any]], file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in tensors.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        Reason.FILE_EXISTS, f"{path} exists and is not overwritten", "give another --out, or --force to replace it"
    )
