"""What is handed in as a file of arrays and is none."""

import zipfile
from typing import Any

import numpy as np
import pytest

from he_agg.errors import ConfigError, PlanError
from he_agg.plan.layout import Layout
from keys.files import read_npz


def test_arrays_come_as_they_were_written(tmp_path):
    tensors: dict[str, Any] = {"layer/0": np.array([1, 2], np.float32), "b": np.array(3.0)}
    np.savez(tmp_path / "update.npz", **tensors)
    read = read_npz(tmp_path / "update.npz")
    assert {name: (array.tolist(), array.dtype.name) for name, array in read.items()} == {
        "layer/0": ([1, 2], "float32"), "b": (3.0, "float64")
    }  # fmt: skip


def test_an_archive_of_something_else_is_refused_with_a_way_out(tmp_path):
    """As torch.save writes: a ZIP with a pickle and raw bytes in it; NumPy hands out bytes."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"not read")
        file.writestr("archive/data/0", b"\0" * 1728)
    with pytest.raises(ConfigError, match=r"another archive, such as torch\.save writes") as caught:
        read_npz(path)
    assert "numpy.savez" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100])
def test_no_archive_at_all(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ConfigError, match="something else"):
        read_npz(tmp_path / "x.npz")


def test_a_name_that_is_too_long_is_shown_by_its_start():
    with pytest.raises(PlanError, match=r"1 to 255 characters, got 256 \('xxxx") as caught:
        Layout.of({"x" * 256: np.zeros(1)}, clip=1.0, weight_cap=1)
    assert "rename the tensor" in caught.value.hint
