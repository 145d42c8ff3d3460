"""Plans: only safe ones can be built, any bytes give a plan or an error, and a changed plan has another id."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg import Layout, canonical
from he_agg.documents.federation import FederationDocument
from he_agg.documents.manifest import MAX_MANIFEST_BYTES
from he_agg.errors import HeAggError, PlanError, Reason, WireError
from he_agg.plan.plan import Plan, PublicPlan
from he_agg.plan.sections import MAX_PARTS, Section, part_places
from tests.support.federation import key_of, plan_of

TENSORS = {"a": np.zeros((3, 4), np.float32), "b": np.float64(0), "e": np.zeros(0, np.float16)}


def layout(**options):
    return Layout.of(TENSORS, **{"clip": 1.0, "weight_cap": 10, **options})


def test_round_trip():
    plan = Plan.create("test", layout(), max_sites=5)
    again = Plan.parse(plan.encode())
    assert again == plan
    assert again.plan_id == plan.plan_id
    assert again.encode() == plan.encode()


def test_aggregators_half_says_nothing_about_the_layout():
    plan = Plan.create("test", Layout.of({"secret-name": np.zeros(3)}, clip=0.125, weight_cap=777), max_sites=5)
    public = canonical.encode(plan.public.to_json())
    for secret in (b"secret-name", b"0.125", b"777"):
        assert secret not in public


@pytest.mark.parametrize(
    "options",
    [
        {"max_sites": 1},
        {"max_sites": 10_001},
        {"max_sites": 5, "min_sites": 1},
        {"max_sites": 5, "min_sites": 6},
        {"max_sites": 5, "value_bits": 1},
        {"max_sites": 5, "value_bits": 25},
        {"max_sites": 5, "codec": "bfv"},
        {"max_sites": 5, "rounds": 0},
        {"max_sites": 5, "deadline_s": 0},
        {"max_sites": 5, "part_bytes": 100},
        {"max_sites": 5, "part_bytes": 2**30},
    ],
)
def test_values_out_of_range_are_refused(options):
    with pytest.raises(PlanError):
        Plan.create("test", layout(), **options)


def test_more_parts_than_a_manifest_can_name_are_refused():
    """The longest manifest that is allowed fits: it has five tags of 20 digits for each part."""
    many = Layout.of({"a": np.broadcast_to(np.float32(0), (10**9,))}, clip=1.0, weight_cap=10)
    with pytest.raises(PlanError, match="at most 20000 parts") as refused:
        Plan.create("test", many, max_sites=5, part_bytes=2**16)
    assert "longer parts" in refused.value.hint
    assert len(Plan.create("test", many, max_sites=5).public.places) <= MAX_PARTS
    assert MAX_PARTS * (len('"",') + 64 + len("[],") + 5 * len('"",' + "9" * 20)) < MAX_MANIFEST_BYTES - 2**16


@pytest.mark.parametrize("name", ["", "A", "a b", "a.b", "-a", "a" * 64, "../x", "ä", "a\n"])
def test_names_that_do_not_fit_a_url_are_refused(name):
    with pytest.raises(WireError):
        Plan.create(name, layout(), max_sites=5)


@pytest.mark.parametrize(
    ("tensors", "options"),
    [
        ({}, {}),
        ({"a": np.zeros(3, int)}, {}),
        ({"a": np.zeros(3, np.longdouble)}, {}),
        ({"": np.zeros(3)}, {}),
        (TENSORS, {"clip": 0.0}),
        (TENSORS, {"clip": -1.0}),
        (TENSORS, {"clip": float("nan")}),
        (TENSORS, {"clip": float("inf")}),
        (TENSORS, {"clip": {"a": 1.0}}),
        (TENSORS, {"weight_cap": 0}),
        (TENSORS, {"weight_cap": 2**41}),
    ],
)
def test_layouts_that_cannot_be_are_refused(tensors, options):
    with pytest.raises(PlanError):
        Layout.of(tensors, **{"clip": 1.0, "weight_cap": 10, **options})


def test_the_first_differing_tensor_is_named():
    other = dict(TENSORS, b=np.float32(0))
    assert "'b': float64 ()" in layout().difference(Layout.of(other, clip=1.0, weight_cap=10))
    assert layout().difference(layout()) == ""
    assert "'e'" in layout().difference(Layout.of({"a": TENSORS["a"], "b": TENSORS["b"]}, clip=1.0, weight_cap=10))
    assert "weight cap 10" in layout().difference(layout(weight_cap=11))


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, member in value.items():
            yield from leaves(member, (*path, key))
    elif isinstance(value, list):
        for i, member in enumerate(value):
            yield from leaves(member, (*path, i))
    else:
        yield path


PLAN = plan_of(5000, part_bytes=2**16)
DOCUMENT = json.loads(PLAN.encode())


@pytest.mark.parametrize("path", list(leaves(DOCUMENT)), ids=lambda path: ".".join(map(str, path)))
def test_a_plan_changed_anywhere_is_refused_or_has_another_id(path):
    """Each leaf in turn is changed to a value of the same type."""
    changed = json.loads(PLAN.encode())
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    value = parent[path[-1]]
    parent[path[-1]] = value + 1 if isinstance(value, int) else ("1" if value[0] != "1" else "2") + value[1:]
    try:
        plan = Plan.parse(canonical.encode(changed))
    except (PlanError, WireError):
        return
    assert plan.plan_id != PLAN.plan_id


@pytest.mark.parametrize("path", list(leaves(DOCUMENT)), ids=lambda path: ".".join(map(str, path)))
@pytest.mark.parametrize("value", [None, True, "", "x" * 300, -1, 2**53 - 1, [], {}, [1], {"a": 1}])
def test_a_plan_with_nonsense_anywhere_is_refused(path, value):
    changed = json.loads(PLAN.encode())
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises((PlanError, WireError)):
        Plan.parse(canonical.encode(changed))


def test_missing_and_unknown_members_are_refused():
    for key in DOCUMENT["public"]:
        changed = json.loads(PLAN.encode())
        del changed["public"][key]
        with pytest.raises(HeAggError):
            Plan.parse(canonical.encode(changed))
    changed = json.loads(PLAN.encode())
    changed["public"]["more"] = 1
    with pytest.raises(WireError):
        Plan.parse(canonical.encode(changed))


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_give_a_plan_or_an_error_of_ours(data):
    with pytest.raises(HeAggError):
        Plan.parse(data)
    with pytest.raises(HeAggError):
        FederationDocument.parse(data)


def test_public_plan_cannot_be_weakened():
    """An operator or coordinator cannot smuggle in parameters that are unsafe or inexact."""
    document = PLAN.public.to_json()
    document["parameters"]["scale_bits"] -= 1
    with pytest.raises(PlanError, match=r"expected scale 2\^14"):
        PublicPlan.from_json(document)


def test_federation_document_round_trip_and_no_secrets():
    key = key_of(PLAN)
    document = key.federation_document
    assert FederationDocument.parse(document.encode()) == document
    with pytest.raises(WireError) as caught:
        FederationDocument.parse(key.key_material)
    assert caught.value.reason == Reason.SECRET_REFUSED


def test_explain_gives_the_figures():
    facts = PLAN.explain()
    assert facts["bytes_up"] == sum(place.wire_bytes for place in PLAN.public.places)
    assert facts["values"] == 5000 + 1 + 1
    assert facts["security_bits"] == 137  # 80 bits at N = 4096; the estimate for 100 bits is the nearest above
    assert facts["failure_log2"] < -128


def test_parts_are_numbered_by_their_place():
    """What is made together travels together: the limbs of the same coefficients are neighbours."""
    sections = (Section("key", 97, 64, 64), Section("limb-0", 97, 130, 64), Section("limb-1", 89, 130, 64))
    places = list(part_places(sections))
    names = [(place.section.name, place.section_index, place.index) for place in places]
    limbs = [(f"limb-{limb}", 1 + limb, index) for index in range(3) for limb in range(2)]
    assert names == [("key", 0, 0), *limbs]
    assert [place.number for place in places] == list(range(len(places)))
    assert [place.residues for place in places] == [64, 64, 64, 64, 64, 2, 2]
