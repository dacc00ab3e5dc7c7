"""What runs, when, in which order?

Owns sources, the refresh, backfills, Prefect flows and deployments, freshness. Never decides what
is believed (validation), what is current (storage) or what a query finds (retrieval).
"""
