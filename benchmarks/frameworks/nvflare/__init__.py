"""NVFlare jobs with our ciphertexts, with NVFlare's own HE, and in the clear."""
