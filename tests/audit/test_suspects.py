"""Who spoils sums is found in a few rehearsals, and nobody else is ever named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.audit.findings import RoundRow
from he_agg.audit.suspects import next_set, suspects
from he_agg.documents.verdict import OPENED, REJECTED

FIVE = frozenset("abcde")


def row(number, members, verdicts, outcome="published"):
    return RoundRow(number, f"f.{number}.1", outcome, 0, 1, 1, tuple(sorted(members)), {}, verdicts)


def rehearse(sites, least, is_bad, says, first=None, at_most=40):
    """Rehearsals as the audit proposes them: the rows, and what came of it."""
    rows: list[RoundRow] = []
    members = frozenset(sites) if first is None else first
    while members and len(rows) < at_most:
        bad = is_bad(members)
        rows.append(row(len(rows) + 1, members, {site: says(site, bad) for site in members}))
        found = suspects(rows, frozenset(sites), least)
        if found is None:
            return rows, None
        members = frozenset(found.next_set)
    return rows, found


def truly(site, bad):
    return REJECTED if bad else OPENED


@pytest.mark.parametrize(("n", "least", "most"), [(3, 2, 3), (4, 3, 4), (5, 3, 4), (7, 4, 5), (10, 6, 6), (20, 11, 8)])
def test_a_member_that_spoils_every_sum_is_named(n, least, most):
    """After the sum of all, which shows that there is one, so many rehearsals."""
    sites = [f"s{i:02d}" for i in range(n)]
    for bad in sites:
        rows, found = rehearse(sites, least, lambda members, bad=bad: bad in members, truly)
        assert found.named == bad
        assert len(rows) - 1 <= most
        assert all(len(each.members) >= least for each in rows)


def test_one_among_five_is_found_in_at_most_five_rounds_though_it_lies_about_them():
    for bad in FIVE:

        def lies(site, is_bad, bad=bad):
            return truly(site, is_bad != (site == bad))

        rows, found = rehearse(FIVE, 3, lambda members, bad=bad: bad in members, lies)
        assert (found.named, list(found.against)) == (bad, [bad])
        assert len(rows) <= 5


@given(data=st.data(), bad=st.sampled_from(sorted(FIVE)))
def test_one_member_cannot_bring_another_into_its_place(data, bad):
    """It spoils what it likes of the sums that it is in, and says what it likes of all."""

    def spoils(members):
        return bad in members and data.draw(st.booleans())

    def says(site, is_bad):
        return data.draw(st.sampled_from([OPENED, REJECTED])) if site == bad else truly(site, is_bad)

    rows, found = rehearse(FIVE, 3, spoils, says)
    assert found is None or found.named in (None, bad)
    assert found is None or set(found.against) <= {bad}
    assert len(rows) <= 2 * len(FIVE)


def test_what_is_not_decided_names_nobody():
    tie = row(1, "abcd", {"a": OPENED, "b": OPENED, "c": REJECTED, "d": REJECTED})
    silent = row(2, "abcde", {"a": REJECTED, "b": REJECTED})
    failed = row(3, "", {}, outcome="failed")
    found = suspects([tie, silent, failed], FIVE, 3)
    assert (found.rejected, found.together, found.named, found.against) == ((), (), None, {})
    assert found.next_set
    assert suspects([row(1, "abc", dict.fromkeys("abc", OPENED))], FIVE, 3) is None


def test_a_liar_about_a_good_sum_is_told_by_what_it_signed():
    said = dict.fromkeys("abcd", OPENED) | {"e": REJECTED}
    found = suspects([row(1, "abcde", said)], FIVE, 3)
    assert (found.rejected, found.named, found.against) == ((), None, {"e": ("f.1.1",)})


@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_where_all_must_be_in_a_sum_nobody_can_stay_away(n):
    sites = frozenset(f"s{i}" for i in range(n))
    assert next_set(sites, n, [(sites, REJECTED)]) == frozenset()
