"""Find the weights of a checkpoint: in containers of training scripts, under prefixes of wrappers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from detrscope.core.errors import UserError

# Keys under which training scripts store weights. Averages come first: they are what the authors evaluate.
AVERAGES = ("ema", "ema_model", "model_ema", "ema_state_dict", "model_ema_state_dict", "state_dict_ema")
CONTAINERS = (
    *AVERAGES,
    *("model", "state_dict", "model_state_dict", "module", "shadow"),
    *("net", "network", "weights", "params", "detector"),
)
MAX_DEPTH = 4
# Inserted between names by torch.compile, FSDP and activation checkpointing, at any depth.
WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PREFIX = r"(?:[A-Za-z_]\w*\.)*"  # of attribute names; a number would be a layer of the model


@dataclass(frozen=True)
class State:
    """A dict of tensors found in a checkpoint.

    Attributes:
        tensors: by key.
        path: keys of the containers around it.
        skipped: other entries of the file.
        notes: what was removed around it, for the log.
    """

    tensors: Mapping[str, Tensor]
    path: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_state(content: object, path: object) -> State:
    """Find the weights in the content of a file: a dict of tensors, or one under a key that training scripts use.

    Raises:
        UserError: there is none; names the keys of the file.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    state = _descend(content, ())
    if state is None:
        keys = [str(key)[:40] for key in list(content)[:5]]
        containers = ", ".join(f"'{name}'" for name in CONTAINERS[len(AVERAGES) :])
        raise UserError(f"{path}: expected a dict of tensors (or one under {containers}); found keys {keys}")
    return state


def _descend(content: Mapping[object, object], path: tuple[str, ...]) -> State | None:
    keys = [str(key) for key in content]
    if len(path) < MAX_DEPTH:
        for name in CONTAINERS:
            inner = content.get(name)
            if isinstance(inner, Mapping) and (state := _descend(inner, (*path, name))) is not None:
                others = tuple(".".join((*path, key)) for key in keys if key != name)
                return State(state.tensors, state.path, (*others, *state.skipped))
    tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    return State(tensors, path, tuple(key for key in keys if key not in tensors)) if tensors else None


def unwrap(state: State, marks: Iterable[str]) -> State:
    """Remove the names of wrappers from the keys.

    Args:
        state: tensors as stored.
        marks: keys of which every known model has one. What precedes it is a prefix: keys without the prefix belong to
            something else, such as a criterion, and are skipped.
    """
    notes = []
    if state.path:
        average = " (the running average)" if set(state.path) & set(AVERAGES) else ""
        notes.append(f"weights under '{'.'.join(state.path)}'{average}")
    tensors = state.tensors
    if wrappers := sorted({match for key in tensors for match in WRAPPERS.findall(key)}):
        tensors = {WRAPPERS.sub("", key): tensor for key, tensor in tensors.items()}
        notes.append(f"removed from the keys: {', '.join(wrappers)}")
    skipped = list(state.skipped)
    if prefix := _prefix(tensors, marks):
        skipped += _grouped(key for key in tensors if not key.startswith(prefix))
        tensors = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
        notes.append(f"prefix '{prefix}' removed from the keys")
    return State(tensors, state.path, tuple(skipped), tuple(notes))


def _prefix(tensors: Mapping[str, Tensor], marks: Iterable[str]) -> str:
    """Return what precedes a mark: nothing where a key is a mark; of several the average's, else the shortest."""
    patterns = [re.compile(rf"({PREFIX}){re.escape(mark)}") for mark in marks]
    prefixes = {match[1] for key in tensors for pattern in patterns if (match := pattern.fullmatch(key))}
    if not prefixes or "" in prefixes:
        return ""
    averages = {prefix for prefix in prefixes if set(prefix.split(".")) & set(AVERAGES)}
    return min(averages or prefixes, key=lambda prefix: (len(prefix), prefix))


def _grouped(keys: Iterable[str]) -> list[str]:
    """Group keys by their first name, with a count."""
    counts = Counter(key.split(".")[0] for key in keys)
    return [name if count == 1 else f"{name}.* ({count} tensors)" for name, count in counts.items()]
