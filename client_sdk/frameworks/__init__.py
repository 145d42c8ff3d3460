"""Runs of other frameworks, which carry this instead of a model. For `client_sdk.flower` and `client_sdk.nvflare`.

    run      one execution of a job; its id is the server's
    claim    what a site says of its submission, and the tags that prove a sum; goes along with every submission and sum
    adder    the server's side: adds residues, holds no key
    site     a site's side: encrypts what was learned, verifies sums before it opens them, keeps the model
    folder   what a site keeps on its disk

Frameworks repeat messages, start processes again, and have servers that nobody at a hospital watches. So:

* A site encrypts once for each round of a run. The submission is on disk before the framework gets it; asked again, by
  a repeated task or after a crash, the same bytes go out.
* Tags hide under pads that follow from the whole claim: run, round, key, site, fresh random bytes, and the digest of
  the sum before. A claim of another run or round, or an altered one, does not verify, though nobody signs anything.
* A sum names its sites, all of them distinct, at least `min_sites`. A site verifies every part of it before it opens
  any, opens one sum of each round and no other, and takes no sum whose sites have followed another one before.
"""
