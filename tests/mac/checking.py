"""What tests of the MAC share."""

from __future__ import annotations


def total_of(mac, parts):
    """The tags of a submission's parts, before pads."""
    total = mac.new_total()
    for number, data in enumerate(parts):
        total.add(number, mac.part(number, data))
    return total


def refused(mac, parts, claims) -> list[int]:
    """The parts of a sum that do not hold. Whatever they are, the check is whole if and only if there are none."""
    check = mac.check(claims)
    wrong = [number for number, data in enumerate(parts) if not check.holds(number, data)]
    assert check.whole == (not wrong)
    return wrong
