import pytest

from examples.demo.data import Patients, Share, load_patients, load_shares


@pytest.fixture(scope="session")
def patients() -> Patients:
    return load_patients()


@pytest.fixture(scope="session")
def shares() -> list[Share]:
    return load_shares()
