"""The one error type a user of snn2chip sees.

Everything that can go wrong because of an input, an option or the machine is raised as
:class:`S2CError`; the command line prints it and exits with its ``exit_code``.
"""

from __future__ import annotations

EXIT_FAILURE = 1
EXIT_USAGE = 2


class S2CError(Exception):
    """A failure written for the person who has to act on it.

    Args:
        what: one sentence: what could not be done.
        where: the file, layer, option or line it is about.
        why: the fact that made it fail, with the values found.
        fix: what to do about it, as a command or an instruction.
        exit_code: exit status of the command line, 1 (failure) or 2 (wrong usage); the class's own
            value where left out.
    """

    exit_code: int = EXIT_FAILURE

    def __init__(
        self, what: str, *, where: str = "", why: str = "", fix: str = "", exit_code: int | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        """Return the message as lines: what, then ``where:``, ``why:`` and ``fix:`` where they are known."""
        details = (("where", self.where), ("why", self.why), ("fix", self.fix))
        lines = [f"  {label + ':':<6} {_hanging(text)}" for label, text in details if text]
        return "\n".join([self.what, *lines])

    def as_dict(self) -> dict[str, str | int]:
        """Return the fields for machine-readable output (``--json``)."""
        return {
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "fix": self.fix,
            "exit_code": self.exit_code,
        }

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only fields are lost by Exception's own pickling, which worker processes rely on.
        return (_rebuild, (type(self), self.as_dict()))


class UsageError(S2CError):
    """The command or call itself is wrong: an unknown option value, a missing or contradictory argument."""

    exit_code = EXIT_USAGE


def _hanging(text: str) -> str:
    return text.replace("\n", "\n" + " " * 9)


def first_line(error: BaseException) -> str:
    """What somebody else's error says, in one line; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _rebuild(cls: type[S2CError], fields: dict[str, str | int]) -> S2CError:
    error = cls(str(fields["what"]), exit_code=int(fields["exit_code"]))
    error.where, error.why, error.fix = (str(fields[name]) for name in ("where", "why", "fix"))
    return error
