"""The errors of this package: each message names the value, the limit and the remedy."""

import operator
from typing import SupportsIndex


def printable(text: str) -> str:
    """The text with everything that a terminal would act on, such as line breaks and colours, written as an escape."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shown(value: object, most: int = 80) -> str:
    """A value from outside as a message shows it: its `repr`, cut."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


class RaffmError(Exception):
    """Base of every error that this package raises on purpose; its text is one printable line."""

    def __str__(self) -> str:
        return printable(super().__str__())


class CheckpointError(RaffmError):
    """A checkpoint cannot be found, read safely, or does not fit its architecture."""


class ElasticSpaceError(RaffmError):
    """An elastic space, or a configuration in it, is malformed or impossible."""


class InfeasibleBudget(RaffmError):
    """No submodel of the space lies inside the budget."""


class DataError(RaffmError):
    """A dataset cannot be found or does not fit what is asked of it."""


class SweepError(RaffmError):
    """A sweep file cannot be continued without mixing results that do not belong together."""


class TrainingError(RaffmError):
    """A federated run cannot be started or continued, or a client's data cannot be used."""


class DeploymentError(RaffmError):
    """A submodel cannot be exported, or an exported file computes something else."""


class FleetError(RaffmError):
    """A table of device classes is malformed, or measurements do not belong to the plan they are given to."""


def whole_number(error: type[RaffmError], least: int | None = None, **values: SupportsIndex) -> int:
    """The single value given by keyword as an integer of Python's own, which unlike numpy's never overflows.

    Raises `error` for what is no whole number, or is below `least`.
    """
    ((name, value),) = values.items()
    try:
        number = operator.index(value)
    except TypeError as reason:
        raise error(f"{name}={value!r}: give a whole number") from reason
    if least is not None and number < least:
        raise error(f"{name}={number}: give at least {least}")
    return number
