"""The tutorials run against a real aggregator and say what their pages claim."""

from __future__ import annotations

import pytest

from examples.tutorials import aggregator_sees, clusters, hazard_ratios, outlier, survival

pytestmark = pytest.mark.filterwarnings("ignore::client_sdk.analytics.SmallCellWarning")


def is_picture(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and path.stat().st_size > 20_000


def test_survival_is_identical_to_the_pooled_curves(tmp_path):
    facts = survival.run(tmp_path / "survival.png")
    assert facts["identical"] == [True] * 4
    assert f"{facts['statistic']:.4f}" == "0.0082"  # as in the textbooks: no difference between treatments
    assert is_picture(tmp_path / "survival.png")


def test_hazard_ratios_and_adjusted_survival_are_the_pooled_ones(tmp_path):
    facts = hazard_ratios.run(tmp_path / "hazard-ratios.png")
    assert facts["same"]
    assert facts["ratios_off_by"] < 1e-9
    assert facts["curves_off_by"] < 1e-9
    assert facts["result"].hazard_ratios[0] == pytest.approx(0.72, abs=0.005)  # hormone therapy, as on the page
    assert min(facts["shared"].baselines["all"].events) >= 5
    assert f"{facts['result'].proportionality.together.p:.2f}" == "0.02"
    assert is_picture(tmp_path / "hazard-ratios.png")


def test_clusters_and_components_are_the_pooled_ones(tmp_path):
    facts = clusters.run(tmp_path / "clusters.png")
    assert facts["kmeans_as_pooled"]
    assert facts["components_off_by"] < 1e-12
    assert facts["agreement"] > 0.9
    assert is_picture(tmp_path / "clusters.png")


def test_the_aggregator_recovers_images_from_plaintext_and_none_from_ciphertext(tmp_path):
    facts = aggregator_sees.run(tmp_path / "sees.png")
    assert facts["recovered_from_plaintext"] == facts["images"]
    # The same integers before encryption: it is the encryption that hides them, not the 16 bits.
    assert facts["recovered_from_16_bit_plaintext"] == facts["images"]
    assert facts["recovered_from_ciphertext"] == 0
    # No better than random bytes: fresh encryption each time, so within what varies from run to run.
    assert abs(facts["correlation_ciphertext"] - facts["correlation_random_bytes"]) < 0.1
    assert facts["ciphertext"]["entropy"] > 7.99
    assert facts["ciphertext"]["zlib"] > 0.999
    assert facts["plaintext"]["zlib"] < 0.9
    assert facts["mean_opened"]
    assert is_picture(tmp_path / "sees.png")


def test_clipping_tames_the_outlier_and_noise_has_its_price(tmp_path):
    facts = outlier.run(tmp_path / "outlier.png", ("as it comes", "clipped", 4.0))
    assert facts["as it comes"]["right"] < 0.8 < 0.9 < facts["clipped"]["right"]
    # Ten rounds at z = 4: 3.34 by the tight accountant, and up to a tenth more by the one for integers.
    assert 3.34 < facts[4.0]["epsilon"] < 3.7
    assert is_picture(tmp_path / "outlier.png")
