"""Choose the number of tags of a part, so that a wrong one passes with a probability of at most 2^-128.

The part's residues mod the prime q lie in rows; with secret coefficients, independent for every tag t,

    tag_t = sum over r of beta[r, t] * sum over c of gamma[c, t] * X[r, c]  +  pad_t   mod q

gamma is uniform on {0, ..., G - 1} and beta on {0, ..., B - 1}, where G = min(q, 2^26) and B = min(q, 2^28), so that
different coefficients differ mod q and the kernel's sums fit 64 bits. gamma is the section's, beta and pad are the
part's own. Drawing coefficients as the high half of a 64-bit word times G gives no number a probability above

    p_gamma = ceil(2^64 / G) / 2^64,        p_beta = ceil(2^64 / B) / 2^64.

**One part.** Let the server present Y where the sum of the claimed submissions' parts is X, D = Y - X not zero mod q.
It knows all residues and all tags, but each tag hides under a one-time pad, so what it knows is independent of gamma
and beta, and they of D. One tag passes if and only if sum_r beta[r] * z_r = 0 mod q, z_r = sum_c gamma[c] * D[r, c]. D
has a row r and in it a column c where it is not zero, hence invertible:

    given the other gammas, z_r = 0 for at most one value of gamma[c]:           probability <= p_gamma
    otherwise, given the other betas, the sum is 0 for at most one beta[r]:      probability <= p_beta
    together                                            p <= p_gamma + p_beta - p_gamma * p_beta

and T independent tags pass with p^T at most: with 30 bits p = 2^-25.7, so five tags make 2^-128.4. Should the server
ask for a constant difference of tags instead of none, which manifests that are signed do not let it, only the second
line is left.

**One sum.** A site looks at the parts of a sum in some order, decrypts each that passes, and refuses the whole at the
first that does not. Parts that are right pass for certain, and tell the server nothing: it knows them to be right, and
their tags it knows already. So the first wrong part decides, and for it the bound above holds as it stands, whatever
gamma it shares with others: what a wrong part meets before it are no further tries. Hence some wrong part is decrypted,
or a wrong sum accepted, with a probability of at most 2^-128, the same as for one part; no factor for their number.

**Many tries.** Coefficients are new for every attempt at a round, so tries do not add up over the life of a key. Within
one attempt each sum with a wrong part that some site looks at is a try. All that a server learns of one is that it
failed, and until one succeeds it could have known that before; so n tries pass with n * 2^-128. Fetching a part again
whose SHA-256 is not the record's is no try: its tags are never computed.

**What opening tells.** A part that was decrypted is, but for this, the right sum of what members have signed, which any
site opens in an honest round. That it does not open to integers shows only when all parts have passed: until then a
site goes on as if it had.

To this comes what tells AES-256-CTR and HMAC-SHA256 from random.

Why so: docs/decisions/0011-linear-mac.md.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

from he_agg.kernels.mac_rows import MAX_BETA, MAX_GAMMA
from he_agg.plan.sections import Section

__all__ = ["beta_range", "forgery_probability", "gamma_range", "tag_count"]

FORGERY_LOG2 = -128
"""log2 of the probability that a wrong part passes, at most."""

_WORDS = 1 << 64


def gamma_range(modulus: int) -> int:
    """Return G: how many values a column's coefficient takes."""
    return min(modulus, MAX_GAMMA)


def beta_range(modulus: int) -> int:
    """Return B: how many values a row's coefficient takes."""
    return min(modulus, MAX_BETA)


def forgery_probability(modulus: int) -> Fraction:
    """Bound p, the probability that one tag of a wrong part is right."""
    column, row = (Fraction(-(-_WORDS // limit), _WORDS) for limit in (gamma_range(modulus), beta_range(modulus)))
    return column + row - column * row


def tag_count(section: Section) -> int:
    """Return the fewest tags with which a wrong part passes with a probability of at most 2^-128.

    Args:
        section: Whose part it is. Its modulus counts: 5 tags from 28 bits on, 6 from 23, 9 at 16.

    Raises:
        ValueError: a modulus below 3, for which no number of tags would do.
    """
    return _tag_count(section.modulus)


@cache
def _tag_count(modulus: int) -> int:
    if modulus < 3:
        raise ValueError(f"expected a prime from 3 on, got {modulus}")
    one, wanted, count = forgery_probability(modulus), Fraction(1, 1 << -FORGERY_LOG2), 1
    while one**count > wanted:
        count += 1
    return count
