"""A summary in; a table, a file and a picture out."""

import json
from io import StringIO

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from examples.demo.picture import spread
from examples.demo.report import print_report, write_report
from examples.demo.summary import PHASES, write_summary


@pytest.fixture
def summary():
    return {
        "codec": "ckks",
        "dataset": "flchain",
        "sites": 3,
        "rounds": 4,
        "values": 9473,
        "encrypted_vs_fixed_point_max_abs_diff": 0.0,
        "encrypted_vs_float_max_abs_diff": 6.25e-6,
        "encrypted_vs_float_bound": 1.37e-5,
        "bytes_per_value_up": 20.14,
        "bytes_per_value_down": 20.31,
        "seconds": {phase: 0.11 * (i + 1) for i, phase in enumerate(PHASES)},
        "score": {
            "local": {"rural-hospital": 0.7978, "university-hospital": 0.8278, "geriatric-centre": 0.8242},
            "plaintext": 0.84571,
            "encrypted": 0.84573,
        },
        "score_per_round": {"encrypted": [0.81, 0.83, 0.84, 0.84573], "plaintext": [0.81, 0.83, 0.84, 0.84571]},
        "verified": {"records": 12, "manifests": 36, "sums": 1212},
        "weights": {"rural-hospital": 309, "university-hospital": 1730, "geriatric-centre": 1116},
    }


def printed(summary) -> str:
    out = StringIO()
    print_report(summary, Console(file=out, width=120))
    return out.getvalue()


def test_the_table_holds_every_figure(summary):
    text = printed(summary)
    for figure in ("0.7978", "0.8278", "0.8242", "0.8457", "-0.0479", "309", "3,155", "9,473", "4 rounds"):
        assert figure in text, figure
    for figure in ("20.14", "20.31", "6.25e-06", "1.37e-05", "ckks", "flchain", "Rural hospital, alone"):
        assert figure in text, figure
    for figure in ("records", "12", "manifests", "36", "sums", "1,212", "the tags of all members"):
        assert figure in text, figure
    for i, phase in enumerate(PHASES):
        assert phase in text
        assert f"{0.11 * (i + 1):.2f}" in text
    assert "-0.0000" not in text


def test_the_table_fits_a_terminal_of_100_columns(summary):
    out = StringIO()
    print_report(summary, Console(file=out, width=100))
    assert "…" not in out.getvalue()


def test_the_table_says_aloud_when_the_average_is_not_exact(summary):
    assert "NOT EXACT" not in printed(summary)
    summary["encrypted_vs_fixed_point_max_abs_diff"] = 1.5e-5
    text = printed(summary)
    assert "NOT EXACT" in text
    assert "1.5e-05" in text


def test_optional_keys_may_be_absent(summary, tmp_path):
    for key in ("weights", "encrypted_vs_float_bound"):
        del summary[key]
    assert "0.7978" in printed(summary)
    assert all(path.exists() for path in write_report(summary, tmp_path))


def test_the_report_is_a_summary_that_reads_back_a_png_and_an_svg(summary, tmp_path):
    paths = write_report(summary, tmp_path / "new" / "demo-report")
    assert [path.name for path in paths] == ["summary.json", "demo.png", "demo.svg"]
    assert json.loads(paths[0].read_text()) == summary
    pixels = matplotlib.image.imread(paths[1])
    height, width = pixels.shape[:2]
    assert width >= 2400
    assert height >= 900
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3]
    assert (corners == 1).all(), "the background is white"
    assert 0.01 < np.mean((pixels[..., :3] < 0.9).any(axis=-1)) < 0.4, "neither empty nor smeared"
    assert paths[2].read_text().startswith("<?xml")


def test_the_picture_is_drawn_from_the_summary(summary, tmp_path):
    first = write_report(summary, tmp_path / "a")[2].read_bytes()
    assert write_report(summary, tmp_path / "b")[2].read_bytes() == first
    summary["seconds"]["encrypt"] = 9.87
    assert b"9.87" in write_report(summary, tmp_path / "c")[2].read_bytes()


@pytest.mark.parametrize("rounds", [1, 3, 30])
def test_runs_of_unequal_length_and_phases_without_time_can_be_drawn(summary, tmp_path, rounds):
    summary["score_per_round"]["encrypted"] = [0.8] * rounds
    summary["seconds"] = dict.fromkeys(PHASES, 0.0)
    assert all(path.stat().st_size > 0 for path in write_report(summary, tmp_path))


def test_a_figure_that_is_no_number_is_refused(summary, tmp_path):
    summary["score"]["plaintext"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_summary(summary, tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_labels_are_moved_apart_and_keep_their_order(seed):
    rng = np.random.default_rng(seed)
    wanted = rng.random(6).tolist()
    placed = spread(wanted, 0.1)
    assert np.array_equal(np.argsort(placed), np.argsort(wanted))
    assert np.diff(np.sort(placed)).min() >= 0.1 - 1e-12


def test_labels_that_are_apart_stay_where_they_are():
    assert spread([0.9, 0.1, 0.5], 0.2) == [0.9, 0.1, 0.5]
