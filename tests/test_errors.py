"""The text, the exit codes and the survival through pickling of S2CError."""

from __future__ import annotations

import pickle

import pytest

from snn2chip.errors import S2CError, UsageError, first_line


def test_message_has_one_line_for_every_known_field() -> None:
    error = S2CError("No weights.", where="net.pt", why="line 1\nline 2", fix="pass --weights")
    assert str(error).splitlines() == [
        "No weights.",
        "  where: net.pt",
        "  why:   line 1",
        "         line 2",
        "  fix:   pass --weights",
    ]


def test_unknown_fields_leave_no_line() -> None:
    assert str(S2CError("Only what.")) == "Only what."


def test_exit_codes() -> None:
    assert S2CError("x").exit_code == 1
    assert UsageError("x").exit_code == 2
    assert S2CError("x", exit_code=2).exit_code == 2
    assert isinstance(UsageError("x"), S2CError)


def test_pickling_keeps_class_and_fields() -> None:
    error = UsageError("a", where="b", why="c", fix="d")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is UsageError
    assert copy.as_dict() == error.as_dict()
    assert str(copy) == str(error)


@pytest.mark.parametrize(
    ("error", "said"),
    [(ValueError("one\ntwo"), "one"), (ValueError(), "ValueError"), (RuntimeError("\n  late\n"), "late")],
)
def test_the_first_line_of_what_somebody_else_raised(error: Exception, said: str) -> None:
    assert first_line(error) == said
