"""The schemes that a plan can name. To add one: its parameters, its codec, and an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from he_agg.errors import PlanError, Reason
from he_agg.plan.ckks_parameters import CkksParameters
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.plan.parameters import Parameters

__all__ = ["DEFAULT_CODEC", "SCHEMES", "Scheme", "scheme_of"]


@dataclass(frozen=True)
class Scheme:
    """One way to encrypt integers whose sum can be opened.

    Attributes:
        name: what plans call it.
        parameters: arithmetic only, for whoever reads a plan.
        codec: "module:class" of its `he_agg.codecs.Codec`, which also makes the key material. A name, because the
            aggregator reads plans and must never load an HE library.
    """

    name: str
    parameters: type[Parameters]
    codec: str


SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("ckks", CkksParameters, "he_agg.codecs.ckks:CkksCodec"),
        Scheme("hybrid", HybridParameters, "he_agg.codecs.hybrid:HybridCodec"),
    )
}

DEFAULT_CODEC = "hybrid"


def scheme_of(codec: str) -> Scheme:
    """Return the scheme of a name.

    Raises:
        PlanError: there is none.
    """
    if codec not in SCHEMES:
        raise PlanError(
            Reason.BAD_PLAN,
            f"expected a codec out of {sorted(SCHEMES)}, got {codec!r}",
            "leave it out for the usual one",
        )
    return SCHEMES[codec]
