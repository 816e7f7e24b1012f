"""Numbers and names of the parts of a dog."""

from __future__ import annotations

BODY, HEAD, EARS, MUZZLE, LEGS, PAWS, TAIL, FUR = range(1, 9)
NAMES = {
    BODY: "body",
    HEAD: "head",
    EARS: "ears",
    MUZZLE: "muzzle",
    LEGS: "legs",
    PAWS: "paws",
    TAIL: "tail",
    FUR: "fur pattern",
}
