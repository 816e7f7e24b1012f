"""CITATION.cff, Dockerfile and CHANGELOG.md agree with the package."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from typing import Any

import typer
import yaml

from detrscope._version import __version__
from detrscope.cli.app import app
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Citation File Format 1.2.0: what is required, and what may stand beside it.
CITATION_REQUIRED = {"authors", "cff-version", "message", "title"}
CITATION_KEYS = CITATION_REQUIRED | {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license"),
    *("license-url", "preferred-citation", "references", "repository", "repository-artifact"),
    *("repository-code", "type", "url", "version"),
}
INSTRUCTIONS = {"FROM", "ENV", "RUN", "COPY", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}


def test_citation_has_the_required_keys_of_its_format() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert CITATION_REQUIRED <= citation.keys() <= CITATION_KEYS
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert all(author.get("name") or author.get("family-names") for author in citation["authors"])
    assert all(isinstance(citation[key], str) for key in ("message", "title", "abstract", "license"))


def test_citation_agrees_with_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == __version__
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert citation["keywords"] == PROJECT["keywords"]


def instructions() -> list[tuple[str, str]]:
    """Return name and arguments of each instruction of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_dockerfile_copies_what_exists_and_is_not_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {word for name, rest in instructions() if name == "COPY" for word in shlex.split(rest)[:-1]}
    assert "*" in ignored and copied == kept and all((ROOT / word).exists() for word in copied)
    assert {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "src"} == copied


def test_dockerfile_starts_a_command_that_is_understood(monkeypatch: Any) -> None:
    parts = dict(instructions())
    assert {name for name, _ in instructions()} <= INSTRUCTIONS
    words = json.loads(parts["ENTRYPOINT"]) + json.loads(parts["CMD"])
    assert words[0] == "detrscope" and parts["USER"] != "root"
    tree, asked = typer.main.get_command(app), []
    monkeypatch.setattr(tree.commands["demo"], "invoke", asked.append)
    tree.main(words[1:], "detrscope", standalone_mode=False)
    assert len(asked) == 1


def test_dockerfile_installs_versions_that_the_package_allows() -> None:
    python = re.fullmatch(r"python:3\.(\d+)-slim", dict(instructions())["FROM"])
    assert python is not None and int(python[1]) >= int(PROJECT["requires-python"].removeprefix(">=3."))
    pip = " ".join(rest for name, rest in instructions() if name == "RUN" and "torch" in rest)
    for package in ("torch", "torchvision"):
        (wanted,) = [one for one in PROJECT["dependencies"] if one.startswith(f"{package}>=")]
        assert f'"{wanted}"' in pip


def test_changelog_has_one_heading_for_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert (
        [heading for heading in headings if "unreleased" in heading] == headings[:1] == ["1.0.0 (unreleased)"]
    )


def test_workflow_has_every_python_and_the_lowest_torch() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["checks"]["strategy"]["matrix"]
    named = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    assert matrix["python"] == named and PROJECT["requires-python"] == f">={named[0]}"
    (lowest,) = matrix["include"]
    assert f"torch>={lowest['torch'].removesuffix('.0')}" in PROJECT["dependencies"]
    assert f"torchvision>={lowest['torchvision'].removesuffix('.0')}" in PROJECT["dependencies"]
