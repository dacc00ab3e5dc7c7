"""What has settled enough to be learned?

Owns settled chunks, examples, emission and staleness. Never emits what it cannot trace to a chunk
of a snapshot.
"""
