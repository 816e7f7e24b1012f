"""Python's warnings and the logs of other packages as lines of our log, each with the package that it comes from."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TextIO

NAMES = {"PIL": "Pillow", "av": "PyAV", "yaml": "PyYAML", "lightning": "Lightning"}
# For programmers: shown at the level "debug", where Python's own filters let them through.
OF_PROGRAMMERS = (
    DeprecationWarning,
    PendingDeprecationWarning,
    FutureWarning,
    ImportWarning,
    ResourceWarning,
)
# What a line that users meet means, where its own words do not say.
MEANINGS = {
    "Corrupt EXIF data": "an image file's metadata are damaged; its pixels are taken as they are stored",
    "DecompressionBombWarning": "an image has very many pixels; it is read, and takes memory",
    "Palette images with Transparency": "an image's transparent colours are laid over white",
}

_TRIGGERED = re.compile(r" \(Triggered internally at [^)]*\)")  # a line of torch's C++ code


class _Forward(logging.Handler):
    """Handler of the root logger: records of other packages become records of our log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.target: logging.Logger | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record under the name of its package."""
        package = record.name.partition(".")[0]
        if self.target is None or package == self.target.name:
            return
        try:
            text = record.getMessage()
        except Exception:  # another package's format and arguments do not fit together
            text = str(record.msg)
        self.target.log(record.levelno, "%s: %s", NAMES.get(package, package), _in_one_line(text))


_forward = _Forward()


def forward_to(log: logging.Logger) -> None:
    """Send warnings of Python and warnings logged by other packages to a log, rather than to standard error."""
    _forward.target = log
    logging.getLogger().addHandler(_forward)  # again is no second time

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        level = logging.DEBUG if issubclass(category, OF_PROGRAMMERS) else logging.WARNING
        log.log(
            level, "%s: %s (%s)", source_of(filename), _explained(str(message), category), category.__name__
        )

    warnings.showwarning = show


def source_of(filename: str) -> str:
    """Return the package that a file belongs to, or the file's name."""
    parts = Path(filename).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts[:-1]:
            package = parts[len(parts) - 1 - parts[::-1].index(folder) + 1].removesuffix(".py")
            return NAMES.get(package, package)
    if "detrscope" in parts[:-1]:
        return "/".join(parts[len(parts) - 1 - parts[::-1].index("detrscope") :])
    return "Python" if any(part.startswith("python3") for part in parts) else Path(filename).name


def _explained(text: str, category: type[Warning]) -> str:
    found = [meaning for sign, meaning in MEANINGS.items() if sign in text or sign == category.__name__]
    return "; ".join([_TRIGGERED.sub("", _in_one_line(text)).rstrip(" ."), *found[:1]])


def _in_one_line(text: str) -> str:
    return " ".join(text.split())
