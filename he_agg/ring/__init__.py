"""The ring under the codec `hybrid`: exact RLWE arithmetic in Z_q[X]/(X^2048 + 1), one idea per file.

Imports nothing itself, so that the aggregator can take `he_agg.kernels.bitpack` without loading a cipher.
"""
