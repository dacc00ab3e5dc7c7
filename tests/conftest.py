"""Settings of the whole suite."""

import pytest
from chat_server import ChatServer
from hypothesis import settings

# Machines are shared and noisy: a deadline per example measures the neighbours.
settings.register_profile("headwater", deadline=None)
settings.load_profile("headwater")


@pytest.fixture
def chat():
    """The server of a model that says what a test wants."""
    server = ChatServer()
    yield server
    server.close()
