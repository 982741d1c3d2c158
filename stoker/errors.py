"""The exceptions a user can meet, each with a message that says what to do.

Raised on every floor; the command line prints the message without a traceback.
"""

import reprlib

SHOWN = 80  # characters of a value in a message
_REPR = reprlib.Repr()  # of what may be long it looks at the beginning only
_REPR.maxlevel = 12
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxdict = _REPR.maxarray = SHOWN // 2
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 4 * SHOWN


class StokerError(Exception):
    """Base of every error Stoker raises on purpose."""


class InvalidRequestError(StokerError, ValueError):
    """A prompt or a sampling parameter cannot be served as given."""


class PromptTooLongError(InvalidRequestError):
    """A prompt is so long that it was not even tokenised."""


class ConfigError(StokerError, ValueError):
    """An engine setting is unknown, out of range, or contradicts another."""


class ModelError(StokerError, ValueError):
    """A model folder is missing, incomplete, damaged or of an unknown kind."""


class JobError(StokerError):
    """A job over a file cannot start: unreadable input, existing output, and the like."""


def suggest(name: str, known: list[str]) -> str:
    """Return a sentence that helps with an unknown `name`: the nearest known one, then all."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(sorted(known))}"


def short(value: object) -> str:
    """A value as messages show it: its repr, cut."""
    try:
        text = _REPR.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; depth
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
