"""Find the weights in what others wrapped around them: containers of training scripts and prefixes of the keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from detrscope.core.errors import UserError

# Under which keys training scripts keep the weights. A running average comes first: it is what its authors evaluate.
AVERAGES = ("ema", "ema_model", "model_ema", "ema_state_dict", "model_ema_state_dict", "state_dict_ema")
CONTAINERS = (
    *AVERAGES,
    *("model", "state_dict", "model_state_dict", "module", "shadow"),
    *("net", "network", "weights", "params", "detector"),
)
DEEPEST = 4
# Put between names by torch.compile, FSDP and activation checkpointing, at any depth.
INSIDE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PREFIX = r"(?:[A-Za-z_]\w*\.)*"  # of attribute names; a number would be a layer of the model


@dataclass(frozen=True)
class Unwrapped:
    """Tensors under the names that the model itself gave them."""

    state: Mapping[str, Tensor]
    skipped: tuple[str, ...] = ()  # what else was there
    notes: tuple[str, ...] = ()  # what was taken off, for the log


@dataclass(frozen=True)
class Found:
    """A dict of tensors somewhere in a checkpoint."""

    state: Mapping[str, Tensor]
    keys: tuple[str, ...] = ()  # the way to it
    skipped: tuple[str, ...] = field(default=())


def find_state(content: object, path: object) -> Found:
    """The weights in the content of a file: a dict of tensors, or one under a key that training scripts use.

    Raises:
        UserError: there is none; what was found is named.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    found = _descend(content, ())
    if found is None:
        keys = [str(key)[:40] for key in list(content)[:5]]
        places = ", ".join(f"'{name}'" for name in CONTAINERS[len(AVERAGES) :])
        raise UserError(f"{path}: expected a dict of tensors (or one under {places}); found keys {keys}")
    return found


def _descend(content: Mapping[object, object], keys: tuple[str, ...]) -> Found | None:
    others = [str(key) for key in content]
    if len(keys) < DEEPEST:
        for name in CONTAINERS:
            inner = content.get(name)
            if isinstance(inner, Mapping) and (found := _descend(inner, (*keys, name))) is not None:
                prefix = ".".join(keys)
                left = tuple(f"{prefix}.{other}" if prefix else other for other in others if other != name)
                return Found(found.state, found.keys, (*left, *found.skipped))
    tensors = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        return None
    return Found(tensors, keys, tuple(other for other in others if other not in tensors))


def unwrap(found: Found, marks: Iterable[str]) -> Unwrapped:
    """Take wrappers' names off the keys.

    Args:
        found: tensors as they lie in the file.
        marks: keys one of which a model known here has; what stands before it is taken off all keys, and keys without
            it belong to something else, such as a criterion, and are skipped.
    """
    notes = []
    if found.keys:
        average = " (the running average)" if set(found.keys) & set(AVERAGES) else ""
        notes.append(f"weights under '{'.'.join(found.keys)}'{average}")
    state: Mapping[str, Tensor] = found.state
    if any(INSIDE.search(key) for key in state):
        wrappers = sorted({match for key in state for match in INSIDE.findall(key)})
        state = {INSIDE.sub("", key): tensor for key, tensor in state.items()}
        notes.append(f"taken off the keys: {', '.join(wrappers)}")
    prefix = _prefix(state, marks)
    skipped = list(found.skipped)
    if prefix:
        skipped += _grouped(key for key in state if not key.startswith(prefix))
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
        notes.append(f"prefix '{prefix}' taken off the keys")
    return Unwrapped(state, tuple(skipped), tuple(notes))


def _prefix(state: Mapping[str, Tensor], marks: Iterable[str]) -> str:
    """What stands before a mark: nothing where a key is one; of several the running average's, else the shortest."""
    patterns = [re.compile(rf"({PREFIX}){re.escape(mark)}") for mark in marks]
    prefixes = {match[1] for key in state for pattern in patterns if (match := pattern.fullmatch(key))}
    if not prefixes or "" in prefixes:
        return ""
    averages = {prefix for prefix in prefixes if set(prefix.split(".")) & set(AVERAGES)}
    return min(averages or prefixes, key=lambda prefix: (len(prefix), prefix))


def _grouped(keys: Iterable[str]) -> list[str]:
    """Many keys by their first name, with a count."""
    counts = Counter(key.split(".")[0] for key in keys)
    return [name if count == 1 else f"{name}.* ({count} tensors)" for name, count in counts.items()]
