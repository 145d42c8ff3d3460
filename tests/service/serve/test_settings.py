"""A setting that cannot be is told under the name by which it was given, with what it should be."""

import pytest

from he_agg.errors import ConfigError
from service.settings import load_settings


@pytest.mark.parametrize(
    ("given", "environment", "told"),
    [
        ({"parts": "http://x"}, {}, "--parts: expected another form; it is: Object store of parts: s3://bucket/prefix"),
        ({}, {"HE_AGG_PARTS": "x"}, "HE_AGG_PARTS: expected another form"),
        ({"operator_port": 70_000}, {}, "--operator-port: Input should be less than or equal to 65535"),
        ({"oidc_issuer": "http://idp.example"}, {}, "--oidc-issuer: expected another form; it is: Identity provider"),
    ],
)
def test_what_cannot_be_is_told(monkeypatch, given, environment, told):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        load_settings(**given)
    assert told in caught.value.message
    assert "pattern" not in caught.value.message
