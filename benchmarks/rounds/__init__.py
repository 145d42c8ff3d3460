"""Whole federated rounds, measured: sites and aggregator are processes of their own, over real HTTP and real links."""
