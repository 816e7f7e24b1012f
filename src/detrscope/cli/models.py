"""`detrscope models`: list the models."""

from __future__ import annotations

from detrscope import console
from detrscope.cli.options import Json, Log, Quiet


def models(
    json: Json = False,
    quiet: Quiet = False,
    log_level: Log = "info",
) -> None:
    """List the models: family, published AP on COCO val 2017, and the source of their weights."""
    console.setup_console(quiet, log_level)

    from detrscope.families import FAMILIES

    variants = [(family, variant) for family in FAMILIES.values() for variant in family.variants]
    if json:
        rows = [
            {
                "name": variant.name,
                "family": family.name,
                "description": variant.description,
                "AP": variant.published.ap if variant.published else None,
                "weights": variant.published.url if variant.published else None,
            }
            for family, variant in variants
        ]
        console.print_json(rows)
        return

    from rich.table import Table

    table = Table("name", "family", "description")
    table.add_column("COCO AP", justify="right")
    table.add_column("published weights", overflow="fold")
    for family, variant in variants:
        published = variant.published
        ap = "-" if published is None or published.ap is None else f"{published.ap:.1f}"
        url = "-" if published is None else published.url
        table.add_row(variant.name, family.name, variant.description, ap, url)
    console.print_table(table)
