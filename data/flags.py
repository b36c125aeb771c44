"""A command's flags as a dataclass, each field with its default, help and bounds; and texts that are safe to print."""

import argparse
from collections.abc import Sequence
from dataclasses import field, fields
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Value = TypeVar("Value")

Flags = TypeVar("Flags", bound="DataclassInstance")


def flag(default: Value, help: str, low: float = 0, high: float = 1e30, **options: object) -> Value:
    """A field; a number must lie in low..high. options: of argparse's add_argument."""
    own = {"default": default, "help": help} | ({} if "action" in options else {"type": type(default)})
    return cast(Value, field(metadata={"options": own | options, "bounds": (low, high)}))


def parse_flags(kind: type[Flags], arguments: Sequence[str] | None, description: str | None) -> Flags:
    """A dataclass of what was typed. SystemExit with status 2, after a message, for wrong usage."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=formatter)
    for each in fields(kind):
        parser.add_argument(f"--{each.name.replace('_', '-')}", **each.metadata["options"])
    typed = vars(parser.parse_args(arguments))
    for each in fields(kind):
        (low, high), value = each.metadata["bounds"], typed[each.name]
        if not all(low <= v <= high for v in np.array(value, object).ravel() if isinstance(v, int | float)):
            parser.error(f"--{each.name.replace('_', '-')} must lie in {low:g}..{high:g}, got {value}")
    return kind(**typed)


def printable(text: object) -> str:
    """A text that may come from a stranger's file, as one line without control characters, of at most 1,000."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()[:1000]
