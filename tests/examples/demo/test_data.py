"""The split: everybody once, hospitals unlike each other, nothing that gives the answer away."""

import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
from sksurv.datasets import load_flchain

from examples.demo.data import FEATURES, HORIZON_DAYS, HOSPITALS, SEED, Patients, Share, encode, load_shares, split


@pytest.mark.parametrize("seed", [SEED, 1, 2])
def test_every_patient_is_in_exactly_one_place(patients, seed):
    parts = split(patients, seed)
    rows = np.concatenate([*parts.train.values(), parts.test])
    assert np.array_equal(np.sort(rows), np.arange(len(patients)))


def test_the_same_seed_gives_the_same_split_and_another_seed_another(patients):
    first, again, other = split(patients, 7), split(patients, 7), split(patients, 8)
    assert np.array_equal(first.test, again.test)
    assert all(np.array_equal(first.train[name], again.train[name]) for name in first.train)
    assert not np.array_equal(first.test, other.test)


def test_hospitals_differ_in_size_age_and_outcome(patients):
    parts = split(patients)
    assert list(parts.train) == [profile.name for profile in HOSPITALS]
    geriatric, university, rural, outpatient = parts.train.values()
    assert 4 * len(rural) < len(university)
    assert min(len(rows) for rows in parts.train.values()) >= 200
    assert patients.age[geriatric].mean() > patients.age[outpatient].mean() + 15
    assert patients.died[geriatric].mean() > 4 * patients.died[outpatient].mean()
    assert patients.female[outpatient].mean() > patients.female[university].mean() + 0.15


def test_the_test_set_is_mixed_as_the_patients_are(patients):
    held_out = split(patients).test
    assert abs(patients.died[held_out].mean() - patients.died.mean()) < 0.02
    assert abs(patients.age[held_out].mean() - patients.age.mean()) < 0.5


def test_features_hold_no_cause_of_death_no_year_and_no_follow_up():
    assert FEATURES == ("age", "sex", "kappa", "lambda", "flc_group", "creatinine", "creatinine_missing", "mgus")
    assert {field.name for field in fields(Patients)}.isdisjoint({"chapter", "sample_yr", "futime", "death"})


def test_features_do_not_depend_on_the_outcome(patients):
    turned = replace(patients, died=~patients.died)
    assert np.array_equal(encode(turned).features, encode(patients).features)


def test_a_patient_is_encoded_alone(patients):
    """No pooled statistic: whoever else is in the batch, a patient's numbers are the same."""
    few = Patients(**{field.name: getattr(patients, field.name)[5:8] for field in fields(Patients)})
    assert np.array_equal(encode(few).features, encode(patients).features[5:8])


def test_features_are_finite_of_order_one_and_flag_what_was_not_measured(patients):
    cohort = encode(patients)
    assert cohort.features.dtype == cohort.died.dtype == np.float32
    assert cohort.features.shape == (len(patients), len(FEATURES))
    assert np.isfinite(cohort.features).all()
    assert np.abs(cohort.features).max() <= 4
    missing = np.isnan(patients.creatinine)
    assert 0 < missing.sum() < len(patients)
    assert np.array_equal(cohort.features[:, FEATURES.index("creatinine_missing")], missing)
    assert not cohort.features[missing, FEATURES.index("creatinine")].any()


def test_who_is_left_out_was_lost_or_came_too_late_to_be_followed(patients):
    table, outcome = load_flchain()
    year = np.asarray(table["sample.yr"].astype(int))
    dead, days = outcome["death"], outcome["futime"]
    lost = ~dead & (days < HORIZON_DAYS)
    early = year <= 1998
    assert len(patients) == (early & ~lost).sum()
    assert patients.died.sum() == (early & dead & (days < HORIZON_DAYS)).sum()
    assert lost[early].mean() < 0.05
    # Why not later years: almost all of the living are lost there, and who remains is dead.
    late = year >= 2000
    assert dead[late & ~lost].all()


def test_a_share_survives_the_disk_and_needs_no_data_set(shares, tmp_path):
    path = tmp_path / "share.npz"
    shares[2].save(path)
    back = Share.load(path)
    assert back.hospital == "rural-hospital"
    assert np.array_equal(back.train.features, shares[2].train.features)
    assert np.array_equal(back.train.died, shares[2].train.died)
    assert np.array_equal(back.test.features, shares[2].test.features)
    assert np.array_equal(back.test.died, shares[2].test.died)

    script = (
        "import sys; from pathlib import Path; from examples.demo.data import Share; "
        "from examples.demo.learner import Hospital; "
        "update, n = Hospital(Share.load(Path(sys.argv[1]))).train(); print(n); "
        "sys.exit(str(sorted({'sksurv', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(len(shares[2].train)), done.stderr
    assert done.stderr.strip() == ""


def test_all_hospitals_are_scored_on_one_test_set(shares):
    again = load_shares()
    assert all(np.array_equal(share.test.features, shares[0].test.features) for share in again)
    assert all(np.array_equal(share.test.died, shares[0].test.died) for share in again)
