"""headwater keeps the knowledge an AI application answers from fresh, versioned and provable.

Rooms: `storage` (which knowledge did we hold, and when?), `validation` (may this be believed?),
`retrieval` (what does the knowledge say?), `flows` (what runs, when, in which order?).
"""

__version__ = "0.1.0"
