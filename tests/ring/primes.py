"""Every prime that a plan can have."""

from __future__ import annotations

from he_agg.plan.hybrid_parameters import prime_sets

IN_USE = tuple(sorted({q for primes in prime_sets() for q in primes}))
