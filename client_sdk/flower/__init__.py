"""Flower and he-agg, both ways round."""

from client_sdk.flower.numpy_client import run_numpy_client

__all__ = ["run_numpy_client"]
