"""Optional packages of an extra, with a message that says what to install."""

from __future__ import annotations

from importlib.util import find_spec

from detrscope.core.errors import UserError


def require_packages(purpose: str, *names: str, extra: str = "deploy") -> None:
    """Check that optional packages are installed.

    Raises:
        UserError: some are missing; says what to install.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise UserError(
            f"{purpose} needs the package{plural} {', '.join(missing)}; install with: pip install 'detrscope[{extra}]'"
        )
