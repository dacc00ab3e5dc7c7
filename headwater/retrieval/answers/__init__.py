"""What does the knowledge answer?

Owns the grounded prompt, the question to a model and the checks of its answer. Never says what no
passage says without saying so, and never sends a document anywhere but to the configured endpoint.
"""

from headwater.retrieval.answers.answer import Answer, AnswerStream, answer, answer_stream

__all__ = ["Answer", "AnswerStream", "answer", "answer_stream"]
