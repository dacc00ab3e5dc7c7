"""Which knowledge did we hold, and when?

Owns objects, manifests, snapshots, history, claims and verification. Never opens a network
connection, never embeds, never decides whether something may be published.
"""
