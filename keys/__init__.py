"""Keys of sites: identities, group keys, keystore files."""
