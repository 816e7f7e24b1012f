"""`detrscope doctor`: report this machine and what `auto` selects on it."""

from __future__ import annotations

from detrscope import console
from detrscope.cli.options import Json, Log, Quiet


def doctor(
    json: Json = False,
    quiet: Quiet = False,
    log_level: Log = "warning",
) -> None:
    """Show versions, devices, and which precision, engine and kernels `auto` selects here, and why."""
    console.setup_console(quiet, log_level)

    from detrscope.commands.doctor import examine_machine

    findings = examine_machine()
    if json:
        from dataclasses import asdict

        console.print_json([asdict(finding) for finding in findings])
        return

    from rich.table import Table

    table = Table("", "item", "here", "reason")
    topic = ""
    for finding in findings:
        if finding.topic != topic:
            table.add_section()
        cells = (finding.topic if finding.topic != topic else "", finding.name, finding.value, finding.reason)
        table.add_row(*cells)
        topic = finding.topic
    console.print_table(table)
