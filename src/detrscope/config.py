"""Frozen dataclasses <-> YAML <-> `--a.b=c`. Pydantic checks types; an unknown key names the nearest valid one."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from detrscope.core.errors import UserError, nearest
from detrscope.core.text_files import read_yaml

T = TypeVar("T")
Tree = dict[str, Any]


def setting(default: Any, help: str) -> Any:
    """A dataclass field with its one default and the sentence that `--help` shows."""
    return field(default=default, metadata={"help": help})


def section(cls: type[T], help: str = "") -> T:
    """A dataclass field that is itself a dataclass of settings."""
    return field(default_factory=cls, metadata={"help": help})


def load_yaml(path: str | Path) -> Tree:
    """A YAML file as nested dicts.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    tree = read_yaml(Path(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    return tree


def preset_names() -> list[str]:
    """The presets that ship, sorted."""
    folder = resources.files("detrscope") / "presets"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_preset(name: str) -> Tree:
    """A shipped preset by name, with the presets it says it is `based_on` underneath.

    Raises:
        UserError: no preset of that name; the nearest one is named.
    """
    if name not in preset_names():
        raise UserError(f"preset '{name}' is not known; {nearest(name, preset_names())}")
    with resources.as_file(resources.files("detrscope") / "presets" / f"{name}.yaml") as path:
        tree = load_yaml(path)
    base = tree.pop("based_on", None)
    return merge(load_preset(base), tree) if base else tree


def merge(*trees: Mapping[str, Any]) -> Tree:
    """Nested dicts laid over each other; later ones win, key by key."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            old = result.get(key)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            result[key] = merge(typing.cast(Tree, old), value) if both else value
    return result


def parse_overrides(arguments: Sequence[str]) -> Tree:
    """`--a.b=c` and `--a.b c` as a tree; values are read as YAML, so `[1, 2]`, `true` and `null` mean what they say.

    Raises:
        UserError: an argument that is not an option, or an option without a value.
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
                raise UserError(f"--{name}: '{parent}' already has a value of its own")
        node[last] = value
    return tree


def build(cls: type[T], tree: Mapping[str, Any], *, source: str) -> T:
    """A config dataclass from nested dicts, every key and type checked.

    Args:
        cls: the dataclass.
        tree: nested settings; absent ones keep their default.
        source: what to call the input in errors, such as a file name.

    Raises:
        UserError: an unknown key (the nearest valid one is named) or a value of the wrong type.
    """
    import pydantic

    _refuse_unknown_keys(cls, tree, source, prefix="")
    try:
        return pydantic.TypeAdapter(cls).validate_python(_plain(tree))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if "ctx" in first and isinstance(first["ctx"].get("error"), UserError):
            raise UserError(f"{source}: {first['ctx']['error']}") from None
        key = ".".join(str(part) for part in first["loc"])
        found = first.get("input")
        raise UserError(f"{source}: {key or cls.__name__}: {first['msg']} (found {found!r})") from None


def to_tree(config: Any) -> Tree:
    """A config dataclass as nested dicts of YAML and JSON types."""
    return typing.cast(Tree, _plain(dataclasses.asdict(config)))


def to_yaml(config: Any) -> str:
    """A config dataclass as YAML text, in field order."""
    import yaml

    return yaml.safe_dump(to_tree(config), sort_keys=False)


@dataclass(frozen=True)
class Setting:
    """One line of a config's help."""

    key: str
    type: str
    default: str
    help: str


def describe(cls: type, prefix: str = "") -> Iterator[Setting]:
    """Every setting of a config dataclass with its dotted key, type, default and help."""
    hints = get_type_hints(cls)
    for f in dataclasses.fields(cls):
        key = f"{prefix}{f.name}"
        inner = _dataclass_of(hints[f.name])
        if inner is not None:
            yield from describe(inner, prefix=f"{key}.")
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
            hint = nearest(str(key), valid)
            raise UserError(f"{source}: unknown key '{prefix}{key}'; {hint}")
        inner = _dataclass_of(hints[key])
        if inner is not None and isinstance(value, Mapping):
            _refuse_unknown_keys(inner, value, source, prefix=f"{prefix}{key}.")


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass in `X` or `X | None`."""
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
