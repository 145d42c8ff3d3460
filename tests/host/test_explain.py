"""`he-agg explain` knows every reason, and needs neither network nor files."""

import json

import pytest
from click.testing import CliRunner

from he_agg.errors import Reason
from he_agg.explanations import EXPLANATIONS
from he_agg.host.explain import explain


def test_every_reason_is_explained_in_the_form_of_the_others():
    assert set(EXPLANATIONS) == set(Reason)
    for reason, texts in EXPLANATIONS.items():
        assert all(text and not text.endswith(".") for text in texts), reason
        assert not any(text.startswith(("A ", "The ", "It ")) for text in texts), reason


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_explained(reason):
    means, to_do = EXPLANATIONS[reason]
    shown = CliRunner().invoke(explain, [reason.value]).output
    assert means in shown
    assert to_do in shown
    assert json.loads(CliRunner().invoke(explain, [reason.value, "--json"]).output)["to_do"] == to_do


def test_another_word_is_refused_with_those_that_there_are():
    refused = CliRunner().invoke(explain, ["sum-rejectd"])
    assert refused.exit_code == 2
    assert "sum-rejected" in refused.output
