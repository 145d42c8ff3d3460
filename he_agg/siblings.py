"""Know when a file of the user's is imported in the place of one of he-agg's packages, and say which.

The packages have plain names, `keys` and `service` among them. Python looks beside the script that runs first, so a
`keys.py` there is found before ours, and what is said about it names neither the file nor the cause.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

__all__ = ["OURS", "check_siblings", "hidden_by"]

OURS = ("he_agg", "keys", "service", "client_sdk")


def hidden_by(name: str) -> Path | None:
    """Return the file that is imported instead of one of our packages; None if ours is, or none is there at all."""
    try:
        spec = find_spec(name)
    except (ValueError, ImportError):  # a module that somebody has made by hand
        return None
    if spec is None or spec.origin is None:
        return None
    found = Path(spec.origin).resolve()
    return None if found == Path(__file__).resolve().parents[1] / name / "__init__.py" else found


def check_siblings(*names: str) -> None:
    """Refuse to go on where one of our packages is hidden.

    Raises:
        ImportError: naming the file that hides it.
    """
    for name in names:
        if name in OURS and (found := hidden_by(name)) is not None:
            raise ImportError(
                f"{found} is imported in the place of he-agg's package {name!r}: "
                "rename it, or run your program from a directory without it"
            )
