"""The linear MAC over ciphertext residues: every site verifies the server's sum before anybody decrypts it.

The sites of an epoch share a key that the aggregator does not have. The tags of each part of a submission are a secret
linear function of its residues plus a one-time pad, and travel in the manifest; the tags of a sum are the sum of the
tags. A site that downloads a sum recomputes those of each part as it comes and compares them with those of all
manifests, so a part that leaves out, repeats, swaps or alters anything is refused while it is still ciphertext.
Checking afterwards would be unsafe: accepting or refusing would then depend on the secret key.

    bound.py         how many tags, and why a forgery passes with at most 2^-128
    derivation.py    which bytes everything secret is derived from
    coefficients.py  the linear function of one section
    totals.py        tags of a submission's parts, collected
    sum_check.py     verification of a sum, part by part
    round_mac.py     one round of it all

What it does not protect from: the aggregator together with one site, which has the key; well-formed but poisoned input.

Source: Agrawal and Boneh, "Homomorphic MACs: MAC-based integrity for network coding", ACNS 2009.
"""

from he_agg.mac.bound import tag_count
from he_agg.mac.round_mac import RoundMac
from he_agg.mac.sum_check import Claim, SumCheck
from he_agg.mac.totals import Tags, TagTotal

__all__ = ["Claim", "RoundMac", "SumCheck", "TagTotal", "Tags", "tag_count"]
