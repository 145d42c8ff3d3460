"""Every prime that a ring of ours can have."""

from __future__ import annotations

from he_agg.plan.hybrid_parameters import ring_primes

IN_USE = tuple(sorted({q for primes in ring_primes() for q in primes}))
