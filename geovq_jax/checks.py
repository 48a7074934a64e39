"""Accepted values of configuration keys, each with its description for messages and documentation."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Check(NamedTuple):
    """Accepted values: `expected` completes "expected KEY to be ..."; `holds` takes a value of the right type."""

    expected: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Check:
    """Numbers not below a bound."""
    return Check(f">= {low}", lambda value: value >= low)


def above(low: int) -> Check:
    """Numbers greater than a bound."""
    return Check(f"> {low}", lambda value: value > low)


def one_of(*choices: str) -> Check:
    """One of several names."""
    return Check(f"one of {', '.join(choices)}", lambda value: value in choices)


def each(check: Check, *, minimum: int) -> Check:
    """Tuples with at least `minimum` entries, each of which passes a check."""
    number = "one or more, each" if minimum else "each"
    return Check(f"{number} {check.expected}", lambda values: len(values) >= minimum and all(map(check.holds, values)))


ANY = Check("", lambda _: True)
NOT_EMPTY = Check("not empty", lambda text: bool(text.strip()))
FRACTION = Check("in [0, 1]", lambda value: 0 <= value <= 1)
SHARE = Check("in (0, 1]", lambda value: 0 < value <= 1)
SIZES = each(at_least(1), minimum=1)
SEED = Check("in [0, 2^32)", lambda value: 0 <= value < 2**32)
