"""Settings: frozen dataclasses <-> YAML <-> `--a.b=c`. Pydantic checks types and ranges; errors name the dotted key."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict, TypeVar, Unpack, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic

from detrscope.core.errors import UserError, suggest_nearest
from detrscope.core.text_files import read_yaml

T = TypeVar("T")
Tree = dict[str, Any]

# Replacements for pydantic's messages about bounds; {} is the number.
BOUNDS = {
    "greater_than_equal": "{} or more",
    "greater_than": "more than {}",
    "less_than_equal": "{} or less",
    "less_than": "less than {}",
}


class Limits(TypedDict, total=False):
    """Constraints that pydantic checks: bounds of a number, lengths of a tuple."""

    ge: float
    gt: float
    le: float
    lt: float
    min_length: int
    max_length: int


def setting(default: Any, help: str, **limits: Unpack[Limits]) -> Any:
    """Declare a field of a settings dataclass: its one default, its help text, and its range."""
    return field(default=default, metadata={"help": help, **limits})


def config_section(cls: type[T], help: str = "") -> T:
    """Declare a field that is itself a dataclass of settings."""
    return field(default_factory=cls, metadata={"help": help})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def settings(cls: type[T]) -> type[T]:
    """Make a frozen, keyword-only dataclass that is checked however it is made: in Python, from YAML, from options.

    What one field cannot tell, such as a range that depends on another setting, is checked by `require_config` in the
    `__post_init__` of the class.
    """
    checks = pydantic.ConfigDict(allow_inf_nan=False, extra="forbid")
    checked = pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=checks)(cls)
    unchecked_init = checked.__init__

    @functools.wraps(unchecked_init)
    def __init__(self: Any, **values: Any) -> None:
        try:
            unchecked_init(self, **values)
        except pydantic.ValidationError as error:
            raise UserError(f"{cls.__name__}: {_first_problem(error)}") from None

    setattr(checked, "__init__", __init__)  # noqa: B010 - mypy refuses the plain assignment
    return typing.cast(type[T], checked)


def require_config(valid: bool, name: str, value: object, expected: str) -> None:
    """Refuse a setting from within `__post_init__`; `name` is relative to the class, such as `encoder.heads`.

    Raises:
        ValueError: it is not valid. Pydantic adds the path of the section, and the caller gets a `UserError`.
    """
    if not valid:
        raise ValueError(f"{name} is {value}: expected {expected}")


def load_yaml_config(path: str | Path) -> Tree:
    """Read a YAML file as nested dicts.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    tree = read_yaml(Path(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    return tree


def config_preset_names() -> list[str]:
    """Return the names of the shipped presets, sorted."""
    folder = resources.files("detrscope") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_preset_config(name: str) -> Tree:
    """Read a shipped preset, laid over the preset that its `based_on` names.

    Raises:
        UserError: no preset has that name; the message names the nearest one.
    """
    if name not in config_preset_names():
        raise UserError(f"preset '{name}' is not known; {suggest_nearest(name, config_preset_names())}")
    with resources.as_file(resources.files("detrscope") / "presets" / f"{name}.yaml") as path:
        tree = load_yaml_config(path)
    base = tree.pop("based_on", None)
    return merge_configs(load_preset_config(base), tree) if base else tree


def merge_configs(*trees: Mapping[str, Any]) -> Tree:
    """Merge nested dicts; later ones win, key by key."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            old = result.get(key)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            result[key] = merge_configs(typing.cast(Tree, old), value) if both else value
    return result


def parse_overrides(arguments: Sequence[str]) -> Tree:
    """Parse `--a.b=c` and `--a.b c` into a tree; values are YAML, such as `[1, 2]`, `true` and `null`.

    Raises:
        UserError: an argument is not an option, or an option has no value.
    """
    import yaml

    tree: Tree = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise UserError(f"'{argument}': expected an override such as --train.epochs=10")
        name, equals, text = argument[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"--{name}: expected a value, such as --{name}=VALUE")
            text = rest.pop(0)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(value, str):
            try:  # YAML reads 1e-4 as a string
                value = float(value)
            except ValueError:
                value = text
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"--{name}: '{parent}' is already set to a value; expected a section")
        node[last] = value
    return tree


def build(cls: type[T], tree: Mapping[str, Any], *, source: str) -> T:
    """Build a settings dataclass from nested dicts.

    Args:
        cls: the dataclass.
        tree: nested settings; absent ones keep their default.
        source: name of the input for errors, such as a file name.

    Raises:
        UserError: a key is unknown (the message names the nearest valid one), or a value has the wrong type or range.
    """
    _refuse_unknown_keys(cls, tree, source, prefix="")
    try:
        return pydantic.TypeAdapter(cls).validate_python(_plain(tree))
    except pydantic.ValidationError as error:
        raise UserError(f"{source}: {_first_problem(error)}") from None


def config_to_tree(config: Any) -> Tree:
    """Convert a settings dataclass to nested dicts of YAML and JSON types."""
    return typing.cast(Tree, _plain(dataclasses.asdict(config)))


def to_yaml(config: Any) -> str:
    """Convert a settings dataclass to YAML text, in field order."""
    import yaml

    return yaml.safe_dump(config_to_tree(config), sort_keys=False)


@dataclass(frozen=True)
class Setting:
    """One line of the list of settings."""

    key: str
    type: str
    default: str
    help: str


def describe_config(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Yield every setting of a dataclass with its dotted key, type, default and help."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        key = f"{prefix}{f.name}"
        inner = _dataclass_of(hints[f.name])
        if inner is not None:
            yield from describe_config(inner, prefix=f"{key}.")
            continue
        if f.default is not dataclasses.MISSING:
            default = str(f.default)
        elif f.default_factory is not dataclasses.MISSING:
            default = str(f.default_factory())
        else:
            default = "required"
        yield Setting(key, _type_name(hints[f.name]), default, f.metadata.get("help", ""))


def _refuse_unknown_keys(cls: type, tree: Mapping[str, Any], source: str, prefix: str) -> None:
    hints = get_type_hints(cls)
    valid = {f.name for f in dataclasses.fields(cls)}
    for key, value in tree.items():
        if key not in valid:
            hint = suggest_nearest(str(key), valid)
            raise UserError(f"{source}: unknown key '{prefix}{key}'; {hint}")
        inner = _dataclass_of(hints[key])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown_keys(inner, value, source, prefix=f"{prefix}{key}.")


def _first_problem(error: pydantic.ValidationError) -> str:
    """Describe the first problem in one line: dotted key, value, what was expected."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if (
        problem["type"] == "value_error"
    ):  # of `require_config`, whose text begins with the name within its section
        text = str(problem["ctx"]["error"])
        return f"{key}.{text}" if key else text
    text = problem["msg"].replace("Input should be", "expected")
    if problem["type"] in BOUNDS:
        text = f"expected {BOUNDS[problem['type']].format(text.split()[-1])}"
    return f"{key} is {problem['input']!r}: {text}"


def _dataclass_of(hint: Any) -> type | None:
    """Return the dataclass in `X` or `X | None`, if any."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return hint
    if get_origin(hint) in (types.UnionType, typing.Union):
        inner = [a for a in get_args(hint) if isinstance(a, type) and dataclasses.is_dataclass(a)]
        return inner[0] if len(inner) == 1 else None
    return None


def _type_name(hint: Any) -> str:
    if get_origin(hint) is typing.Literal:
        return "|".join(str(a) for a in get_args(hint))
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return str(hint).replace("typing.", "")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value
