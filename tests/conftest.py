"""Settings of the whole suite."""

from hypothesis import settings

# Machines are shared and noisy: a deadline per example measures the neighbours.
settings.register_profile("headwater", deadline=None)
settings.load_profile("headwater")
