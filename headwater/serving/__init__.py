"""Who may ask the knowledge base over HTTP, and what do they get?

Owns the HTTP service: its endpoints, keys, limits, problems and metrics. Never decides what is
found, and never writes to a store.
"""
