"""A row of channels held in registers, for kernels in numba: LLVM's vectors of any width, as functions of addresses.

A plain loop over channels writes its sums to memory after every point, since LLVM cannot know that nothing else reads
them. A vector stays in registers, on any processor that LLVM knows: it is cut into what the machine has.

A row is stored as `f32`, `f64` or `bf16`; its sums are float32, and float64 for `f64`. This file imports numba: import
it only where a kernel is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

BYTES = {"f32": 4, "bf16": 2, "f64": 8}  # of one stored channel
INT16, INT32, INT64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
Value = Any  # an LLVM value


def _in_kernels(function: Callable[..., Any]) -> Any:
    """Make a function that kernels may call with all but `typing`; literals arrive as such."""
    return intrinsic(prefer_literal=True)(function)


class SimdVector(types.Type):
    """A vector of `width` float32, or float64 where `wide`."""

    def __init__(self, width: int, wide: bool) -> None:
        self.width, self.wide = width, wide
        self.scalar = types.float64 if wide else types.float32
        super().__init__(f"Lanes({width}, {wide})")


def _vector(lanes: SimdVector) -> Any:
    return ir.VectorType(ir.DoubleType() if lanes.wide else ir.FloatType(), lanes.width)


@register_model(SimdVector)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: SimdVector) -> None:
        super().__init__(manager, lanes, _vector(lanes))


def _of(width: Any, storage: Any) -> SimdVector:
    return SimdVector(width.literal_value, storage.literal_value == "f64")


def _all(vector: Any, number: float) -> Value:
    return ir.Constant(vector, [number] * vector.count)


def _spread(builder: Any, scalar: Value, width: int) -> Value:
    one = builder.insert_element(
        ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined), scalar, INT32(0)
    )
    return builder.shuffle_vector(one, one, _all(ir.VectorType(INT32, width), 0))


def _read(builder: Any, address: Value, lanes: SimdVector, storage: str) -> Value:
    if storage == "bf16":
        return _widened(builder, address, lanes)
    vector = _vector(lanes)
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=BYTES[storage], typ=vector)


def _write(builder: Any, address: Value, x: Value, lanes: SimdVector, storage: str) -> None:
    if storage == "bf16":
        x = _narrowed(builder, x, lanes)
    builder.store(x, builder.inttoptr(address, x.type.as_pointer()), align=BYTES[storage])


def _widened(builder: Any, address: Value, lanes: SimdVector) -> Value:
    """A bfloat16 is the upper half of a float32. Of two neighbours one is shifted up and the other is there already.

    So a row stands in registers with its even channels first, and `_narrowed` puts it in order again.
    """
    pairs, rest = divmod(lanes.width, 2)
    if rest:
        short, full = ir.VectorType(INT16, lanes.width), ir.VectorType(INT32, lanes.width)
        bits = builder.load(builder.inttoptr(address, short.as_pointer()), align=2, typ=short)
        return builder.bitcast(builder.shl(builder.zext(bits, full), _all(full, 16)), _vector(lanes))
    pair = ir.VectorType(INT32, pairs)
    bits = builder.load(builder.inttoptr(address, pair.as_pointer()), align=2, typ=pair)
    even, odd = builder.shl(bits, _all(pair, 16)), builder.and_(bits, _all(pair, 0xFFFF0000))
    return builder.bitcast(builder.shuffle_vector(even, odd, _places(0, lanes.width)), _vector(lanes))


def _narrowed(builder: Any, x: Value, lanes: SimdVector) -> Value:
    """To bfloat16, to the nearest and of two equally near to the even; NaN stays NaN."""
    full = ir.VectorType(INT32, lanes.width)
    bits = builder.bitcast(x, full)
    odd = builder.and_(builder.lshr(bits, _all(full, 16)), _all(full, 1))
    near = builder.add(bits, builder.add(odd, _all(full, 0x7FFF)))
    near = builder.select(builder.fcmp_unordered("uno", x, x), _all(full, 0x7FC00000), near)
    near = builder.lshr(near, _all(full, 16))
    pairs, rest = divmod(lanes.width, 2)
    if rest:
        return builder.trunc(near, ir.VectorType(INT16, lanes.width))
    even = builder.shuffle_vector(near, near, _places(0, pairs))
    odd = builder.shuffle_vector(near, near, _places(pairs, lanes.width))
    return builder.or_(even, builder.shl(odd, _all(odd.type, 16)))


def _places(start: int, stop: int) -> Value:
    return ir.Constant(ir.VectorType(INT32, stop - start), list(range(start, stop)))


def _scaled_sum(builder: Any, scale: Value, x: Value, add: Value, lanes: SimdVector) -> Value:
    vector = _vector(lanes)
    name = f"llvm.fmuladd.v{lanes.width}f{64 if lanes.wide else 32}"
    multiply_add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(multiply_add, [_spread(builder, scale, lanes.width), x, add])


@_in_kernels
def zeros(typing: Any, width: Any, storage: Any) -> Any:
    """A sum of no rows."""
    lanes = _of(width, storage)
    return lanes(width, storage), lambda context, builder, signature, args: _all(_vector(lanes), 0.0)


@_in_kernels
def load(typing: Any, address: Any, width: Any, storage: Any) -> Any:
    """The row of `width` channels stored at an address."""
    lanes = _of(width, storage)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        return _read(builder, args[0], lanes, storage.literal_value)

    return lanes(types.int64, width, storage), generate


@_in_kernels
def store(typing: Any, address: Any, row: Any, storage: Any) -> Any:
    """Write a row to an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        _write(builder, args[0], args[1], row, storage.literal_value)
        return context.get_dummy_value()

    return types.void(types.int64, row, storage), generate


@_in_kernels
def add(typing: Any, total: Any, scale: Any, address: Any, storage: Any) -> Any:
    """A sum and, to it, `scale` times the row at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        x = _read(builder, args[2], total, storage.literal_value)
        return _scaled_sum(builder, args[1], x, args[0], total)

    return total(total, total.scalar, types.int64, storage), generate


@_in_kernels
def fma(typing: Any, one: Any, other: Any) -> Any:
    """Two sums together."""
    return one(one, other), lambda context, builder, signature, args: builder.fadd(args[0], args[1])


@_in_kernels
def add_to(typing: Any, address: Any, scale: Any, row: Any) -> Any:
    """Add `scale` times a row to the sum kept at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        kept = "f64" if row.wide else "f32"
        total = _read(builder, args[0], row, kept)
        _write(builder, args[0], _scaled_sum(builder, args[1], args[2], total, row), row, kept)
        return context.get_dummy_value()

    return types.void(types.int64, row.scalar, row), generate


@_in_kernels
def dot(typing: Any, row: Any, address: Any) -> Any:
    """The scalar product of a row and the sum kept at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        vector = _vector(row)
        scalar = vector.element
        product = builder.fmul(args[0], _read(builder, args[1], row, "f64" if row.wide else "f32"))
        name = f"llvm.vector.reduce.fadd.v{row.width}f{64 if row.wide else 32}"
        add_up = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(scalar, [scalar, vector]), name
        )
        return builder.call(add_up, [ir.Constant(scalar, 0.0), product], fastmath=("reassoc",))

    return row.scalar(row, types.int64), generate


@_in_kernels
def prefetch(typing: Any, address: Any) -> Any:
    """Say that memory at an address will be read, whether it is there or not."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        at = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        fetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [at.type, INT32, INT32, INT32]), "llvm.prefetch.p0"
        )
        builder.call(fetch, [at, INT32(0), INT32(3), INT32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@_in_kernels
def times(typing: Any, one: Any, other: Any) -> Any:
    """The product of two int32 as int32; numba's own is int64, which halves what fits into a register."""
    signature = types.int32(types.int32, types.int32)
    return signature, lambda context, builder, signature, args: builder.mul(args[0], args[1])


@_in_kernels
def atomic_add(typing: Any, record: Any, index: Any) -> Any:
    """The 64-bit counter at a place of a record, and one more there for whoever asks next, on whatever thread."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        counters = builder.bitcast(args[0], INT64.as_pointer())
        counter = builder.gep(counters, [INT64(index.literal_value)], source_etype=INT64)
        return builder.atomic_rmw("add", counter, INT64(1), "monotonic")

    return types.int64(record, index), generate


@_in_kernels
def pointer(typing: Any, address: Any, scalar: Any) -> Any:
    """An address as a pointer to numbers of a type such as `np.float32`, for `numba.carray`."""
    kind = types.CPointer(scalar.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, scalar), generate
