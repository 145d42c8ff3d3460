"""`he-agg` of an operator who changed two lines: its aggregator publishes sums of two sites, whatever was agreed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from he_agg.host.commands import main
from service.core.conductor import Conductor
from service.domain.events import Federation

honest = Conductor._load


def _load(*arguments: Any) -> Federation:
    state = honest(*arguments)
    round_ = state.round and replace(state.round, min_sites=2)
    return replace(state, terms=replace(state.terms, min_sites=2), round=round_)


if __name__ == "__main__":
    Conductor._load = _load  # type: ignore[assignment,method-assign]
    main()
