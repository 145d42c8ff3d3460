"""One training in NVFlare and in Flower: with our ciphertexts, with what each has of its own, and in the clear."""
