"""May this be believed, and may it be published?

Owns contracts (Great Expectations suites), quarantine, gates and reports. Never writes a snapshot
and never moves CURRENT.
"""
