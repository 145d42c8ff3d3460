"""Choose the number of tags of a section, so that a wrong sum passes with a probability of at most 2^-128.

The section's residues mod the prime q lie in rows; with secret coefficients, independent for every tag t,

    tag_t = sum over r of beta[r, t] * sum over c of gamma[c, t] * X[r, c]  +  pad_t   mod q

gamma is uniform on {0, ..., G - 1} and beta on {0, ..., B - 1}, where G = min(q, 2^26) and B = min(q, 2^28), so that
different coefficients differ mod q and the kernel's sums fit 64 bits. Drawing them as the high half of a 64-bit word
times G gives no number a probability above

    p_gamma = ceil(2^64 / G) / 2^64,        p_beta = ceil(2^64 / B) / 2^64.

Let the server present Y where the sum of the claimed submissions is X, D = Y - X not zero mod q. It knows all
residues and all tags, but each tag hides under a one-time pad, so what it knows is independent of gamma and beta, and
they of D. One tag passes if and only if sum_r beta[r] * z_r = 0 mod q, z_r = sum_c gamma[c] * D[r, c]. D has a row r
and in it a column c where it is not zero, hence invertible:

    given the other gammas, z_r = 0 for at most one value of gamma[c]:           probability <= p_gamma
    otherwise, given the other betas, the sum is 0 for at most one beta[r]:      probability <= p_beta
    together                                            p <= p_gamma + p_beta - p_gamma * p_beta

and t independent tags pass with p^t at most: with 30 bits p = 2^-25.7, so five tags make 2^-128.4. Should the server
ask for a constant difference of tags instead of none, which manifests that are signed do not let it, only the second
line is left. Coefficients are new for every attempt at a round, so tries do not add up over the life of a key; n tries
within one attempt pass with n * 2^-128. To this comes what tells AES-256-CTR and HMAC-SHA256 from random.

Why so: docs/decisions/0011-linear-mac.md.
"""

from __future__ import annotations

from fractions import Fraction

from he_agg.kernels.mac_rows import MAX_BETA, MAX_GAMMA
from he_agg.plan.sections import Section

__all__ = ["beta_range", "forgery_probability", "gamma_range", "tag_count"]

FORGERY_LOG2 = -128
"""log2 of the probability that a wrong sum passes, at most."""

_WORDS = 1 << 64


def gamma_range(modulus: int) -> int:
    """Return G: how many values a column's coefficient takes."""
    return min(modulus, MAX_GAMMA)


def beta_range(modulus: int) -> int:
    """Return B: how many values a row's coefficient takes."""
    return min(modulus, MAX_BETA)


def forgery_probability(modulus: int) -> Fraction:
    """Bound p, the probability that one tag of a wrong sum is right."""
    column, row = (Fraction(-(-_WORDS // limit), _WORDS) for limit in (gamma_range(modulus), beta_range(modulus)))
    return column + row - column * row


def tag_count(section: Section) -> int:
    """Return the fewest tags with which a wrong sum of the section passes with a probability of at most 2^-128.

    Args:
        section: Its modulus counts, not its length: 5 tags from 28 bits on, 6 from 23, 9 at 16.

    Raises:
        ValueError: a modulus below 3, for which no number of tags would do.
    """
    if section.modulus < 3:
        raise ValueError(f"expected a prime from 3 on, got {section.modulus}")
    one, wanted, count = forgery_probability(section.modulus), Fraction(1, 1 << -FORGERY_LOG2), 1
    while one**count > wanted:
        count += 1
    return count
