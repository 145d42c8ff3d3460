"""Keys of sites: identities, group keys, keystore files. The aggregator never imports this package."""

from keys.group_key import GroupKey
from keys.identity import Identity
from keys.secret_file import read_secret_text, write_secret_text

__all__ = ["GroupKey", "Identity", "read_secret_text", "write_secret_text"]
