"""What does headwater cost, and does it keep what it promises?

Owns measurements, their corpora and their targets. Never asserts: a missed target is a line in the
table. Machines are shared, so costs are CPU seconds of whole processes, and wall time never stands
alone.
"""
