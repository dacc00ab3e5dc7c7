"""The error tree is one, stable, and every branch has an exit code of the one table."""

import errno
import pickle

import pytest

from headwater import errors
from headwater.errors import EXIT_CODES, HeadwaterError, StorageUnavailableError


def tree(root: type[HeadwaterError]) -> list[type[HeadwaterError]]:
    return [root, *(c for child in root.__subclasses__() for c in tree(child))]


@pytest.mark.parametrize("cls", tree(HeadwaterError), ids=lambda c: c.__name__)
def test_every_error_has_an_exit_code_a_kind_and_survives_a_process_border(cls):
    """Errors cross process borders in Prefect and in parser workers."""
    error = cls("It failed", obj="the thing", todo="do this")
    assert cls.exit_code in EXIT_CODES and cls.kind
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls and again.as_dict() == error.as_dict()
    assert str(again) == "It failed: the thing\n  -> do this"


def test_kinds_are_distinct():
    """Programs tell errors apart by kind."""
    kinds = [cls.kind for cls in tree(HeadwaterError)]
    assert len(kinds) == len(set(kinds))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
def test_what_the_disk_refuses_is_told_in_three_parts(number):
    """A full or forbidden disk is no traceback."""
    error = StorageUnavailableError.of(OSError(number, "no"), "/data/x")
    assert error.what and error.obj == "/data/x" and "untouched" in error.todo


def test_everything_lives_in_one_file():
    """No other module defines a HeadwaterError."""
    assert {cls.__module__ for cls in tree(HeadwaterError)} == {errors.__name__}
