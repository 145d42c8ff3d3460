"""Read and write what members sign: rosters, epochs, manifests, records, and the transcript of all of them."""
