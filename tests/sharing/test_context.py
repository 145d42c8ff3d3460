"""Contexts: each field counts, everywhere; numbers from an XOF are below P, and the very ones that the words say."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from he_agg.errors import WireError
from he_agg.ids import RoundId
from he_agg.ring.primes import N
from he_agg.sharing import context as context_module
from he_agg.sharing.context import Context, elements, hashed, joined
from he_agg.sharing.field import P
from he_agg.sharing.masks import mask
from he_agg.sharing.proof import combinations, commit
from tests.sharing.dealt import MASK_KEY, context_of, digest_of

OTHERS: dict[str, dict[str, Any]] = {
    "federation": {"round_id": RoundId("strok", 3, 1)},
    "round": {"round_id": RoundId("stroke", 4, 1)},
    "attempt": {"round_id": RoundId("stroke", 3, 2)},
    "epoch": {"epoch": 3},
    "plan": {"plan_id": digest_of("other")},
    "key": {"key_id": digest_of("other")},
    "roster": {"roster": digest_of("other")},
    "holders": {"holders": digest_of("other")},
    "dealer": {"dealer": "site-2"},
    "nonce": {"nonce": digest_of("other")[:32]},
}


@pytest.mark.parametrize("field", OTHERS)
def test_every_field_changes_all_that_is_derived(field):
    one, other = context_of(), context_of(**OTHERS[field])
    assert one != other
    for derived in (
        lambda c: mask(MASK_KEY, c).tobytes(),
        lambda c: commit(c, 1, b"text"),
        lambda c: combinations(c, b"header", [b"c"]).tobytes(),
        lambda c: c.sealing_info(1, "holder-1"),
    ):
        assert derived(one) == derived(one)
        assert derived(one) != derived(other)


def test_a_share_is_sealed_for_one_holder_at_one_place():
    infos = {context_of().sealing_info(index, holder) for index in (1, 2) for holder in ("holder-1", "holder-2")}
    assert len(infos) == 4


def test_fields_cannot_be_moved_into_one_another():
    assert joined(b"ab", b"c") != joined(b"a", b"bc") != joined(b"abc") != joined(b"abc", b"")
    assert hashed(b"x", b"y") == hashlib.sha256(b"\0\0\0\1x\0\0\0\1y").digest()


@pytest.mark.parametrize("change", [{"dealer": "Site"}, {"nonce": "00"}, {"epoch": 0}, {"roster": "AB" * 32}])
def test_a_context_is_well_formed(change):
    with pytest.raises(WireError):
        context_of(**change)


def test_labels_are_all_different():
    """Two purposes with one label would hash alike."""
    from he_agg.sharing import dealer, dealing, decoding, masks, proof, shamir

    modules = (context_module, dealer, dealing, decoding, masks, proof, shamir)
    labels = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, bytes) and value.startswith(b"he-agg/")
    ]
    assert len(labels) == len(set(labels)) == 8


def test_elements_are_the_words_below_p():
    data = hashlib.shake_256(joined(b"label", b"seed")).digest(2 * 40_000)
    words = [int.from_bytes(data[i : i + 2], "little") for i in range(0, len(data), 2)]
    below = [word for word in words if word < P]
    assert len(below) < len(words), "this seed refuses nothing, and so tests nothing"
    assert elements(39_000, b"label", b"seed").tolist() == below[:39_000]
    assert elements(5, b"label", b"seed").tolist() == below[:5]


def test_more_words_are_taken_when_many_are_refused(monkeypatch):
    monkeypatch.setattr(context_module, "_MARGIN", 1)
    data = hashlib.shake_256(joined(b"label", b"seed")).digest(2 * 40_000)
    words = np.frombuffer(data, dtype="<u2")
    assert np.array_equal(elements(39_000, b"label", b"seed"), words[words < P][:39_000])


def test_elements_look_uniform():
    """Mean and variance within six standard deviations of a uniform law's."""
    x = elements(100 * N, b"label", b"uniform").astype(float)
    assert abs(x.mean() - (P - 1) / 2) < 6 * P / np.sqrt(12 * x.size)
    assert abs(x.var() * 12 / (P**2 - 1) - 1) < 6 * np.sqrt(0.8 / x.size)


def test_a_context_is_compared_by_value():
    assert context_of() == Context(**{name: getattr(context_of(), name) for name in Context.__dataclass_fields__})
    assert replace(context_of(), dealer="site-9") != context_of()
