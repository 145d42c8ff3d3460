"""Split one-time keys among holders: masking, sharing, proof, dealing, decoding. Pure, one idea per file.

Imports nothing itself, so that the aggregator can take the form of a dealing without loading a cipher. What seals and
opens is handed in: keys/receiving.py has it.
"""
