"""Say which file of the user's hides a package that the SDK is about to import."""

from he_agg.siblings import check_siblings

check_siblings("keys")
