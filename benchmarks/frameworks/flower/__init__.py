"""Flower runs with our ciphertexts, behind SecAgg+, and in the clear."""
