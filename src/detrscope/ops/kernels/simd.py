"""SIMD for numba kernels: rows of channels as LLVM vectors of any width, loaded and stored by address.

A plain loop over channels writes its sums to memory after every point, since LLVM cannot prove that nothing else reads
them. A vector stays in registers, on any processor: LLVM splits it into registers of the machine's width.

A row is stored as `f32`, `f64` or `bf16`; its sums are float32, and float64 for `f64`. This module imports numba, so
import it only where a kernel is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

BYTES = {"f32": 4, "bf16": 2, "f64": 8}  # per stored channel
INT16, INT32, INT64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
Value = Any  # an LLVM value


def _in_kernels(function: Callable[..., Any]) -> Any:
    """Make an intrinsic, which kernels call without the first argument, `typing`; literals keep their values."""
    return intrinsic(prefer_literal=True)(function)


class Row(types.Type):
    """Numba type of a vector of `width` float32, or float64 where `wide`."""

    def __init__(self, width: int, wide: bool) -> None:
        self.width, self.wide = width, wide
        self.scalar = types.float64 if wide else types.float32
        initialise: Any = super().__init__  # numba has no types
        initialise(f"Row({width}, {wide})")


def _llvm_type(row: Row) -> Any:
    return ir.VectorType(ir.DoubleType() if row.wide else ir.FloatType(), row.width)


@register_model(Row)
class _RowModel(models.PrimitiveModel):
    def __init__(self, manager: Any, row: Row) -> None:
        initialise: Any = super().__init__
        initialise(manager, row, _llvm_type(row))


def _of(width: Any, storage: Any) -> Row:
    return Row(width.literal_value, storage.literal_value == "f64")


def _constant(vector: Any, number: float) -> Value:
    return ir.Constant(vector, [number] * vector.count)


def _spread(builder: Any, scalar: Value, width: int) -> Value:
    first = builder.insert_element(
        ir.Constant(ir.VectorType(scalar.type, width), ir.Undefined), scalar, INT32(0)
    )
    return builder.shuffle_vector(first, first, _constant(ir.VectorType(INT32, width), 0))


def _read(builder: Any, address: Value, row: Row, storage: str) -> Value:
    if storage == "bf16":
        return _widened(builder, address, row)
    vector = _llvm_type(row)
    return builder.load(builder.inttoptr(address, vector.as_pointer()), align=BYTES[storage], typ=vector)


def _write(builder: Any, address: Value, x: Value, row: Row, storage: str) -> None:
    if storage == "bf16":
        x = _narrowed(builder, x, row)
    builder.store(x, builder.inttoptr(address, x.type.as_pointer()), align=BYTES[storage])


def _widened(builder: Any, address: Value, row: Row) -> Value:
    """Load bfloat16 as float32, whose upper half it is.

    Of two neighbours in 32 bits one is shifted up and the other is masked. A row therefore has its even channels first
    in registers, and `_narrowed` restores the order.
    """
    pairs, rest = divmod(row.width, 2)
    if rest:
        short, full = ir.VectorType(INT16, row.width), ir.VectorType(INT32, row.width)
        bits = builder.load(builder.inttoptr(address, short.as_pointer()), align=2, typ=short)
        return builder.bitcast(builder.shl(builder.zext(bits, full), _constant(full, 16)), _llvm_type(row))
    pair = ir.VectorType(INT32, pairs)
    bits = builder.load(builder.inttoptr(address, pair.as_pointer()), align=2, typ=pair)
    even, odd = builder.shl(bits, _constant(pair, 16)), builder.and_(bits, _constant(pair, 0xFFFF0000))
    return builder.bitcast(builder.shuffle_vector(even, odd, _range(0, row.width)), _llvm_type(row))


def _narrowed(builder: Any, x: Value, row: Row) -> Value:
    """Round to bfloat16, ties to even; NaN stays NaN."""
    full = ir.VectorType(INT32, row.width)
    bits = builder.bitcast(x, full)
    odd = builder.and_(builder.lshr(bits, _constant(full, 16)), _constant(full, 1))
    near = builder.add(bits, builder.add(odd, _constant(full, 0x7FFF)))
    near = builder.select(builder.fcmp_unordered("uno", x, x), _constant(full, 0x7FC00000), near)
    near = builder.lshr(near, _constant(full, 16))
    pairs, rest = divmod(row.width, 2)
    if rest:
        return builder.trunc(near, ir.VectorType(INT16, row.width))
    even = builder.shuffle_vector(near, near, _range(0, pairs))
    odd = builder.shuffle_vector(near, near, _range(pairs, row.width))
    return builder.or_(even, builder.shl(odd, _constant(odd.type, 16)))


def _range(start: int, stop: int) -> Value:
    return ir.Constant(ir.VectorType(INT32, stop - start), list(range(start, stop)))


def _declared(builder: Any, signature: Any, name: str) -> Value:
    """Declare an LLVM intrinsic in the module."""
    declare: Any = cgutils.get_or_insert_function  # numba has no types
    return declare(builder.module, signature, name)


def _scaled_sum(builder: Any, scale: Value, x: Value, add: Value, row: Row) -> Value:
    vector = _llvm_type(row)
    name = f"llvm.fmuladd.v{row.width}f{64 if row.wide else 32}"
    multiply_add = _declared(builder, ir.FunctionType(vector, [vector] * 3), name)
    return builder.call(multiply_add, [_spread(builder, scale, row.width), x, add])


@_in_kernels
def zeros(typing: Any, width: Any, storage: Any) -> Any:
    """Return a row of zeros."""
    row = _of(width, storage)
    return row(width, storage), lambda context, builder, signature, args: _constant(_llvm_type(row), 0.0)


@_in_kernels
def load(typing: Any, address: Any, width: Any, storage: Any) -> Any:
    """Load the row of `width` channels at an address."""
    row = _of(width, storage)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        return _read(builder, args[0], row, storage.literal_value)

    return row(types.int64, width, storage), generate


@_in_kernels
def store(typing: Any, address: Any, row: Any, storage: Any) -> Any:
    """Store a row at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        _write(builder, args[0], args[1], row, storage.literal_value)
        return context.get_dummy_value()

    return types.void(types.int64, row, storage), generate


@_in_kernels
def fma(typing: Any, total: Any, scale: Any, address: Any, storage: Any) -> Any:
    """Return `total` plus `scale` times the row stored at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        x = _read(builder, args[2], total, storage.literal_value)
        return _scaled_sum(builder, args[1], x, args[0], total)

    return total(total, total.scalar, types.int64, storage), generate


@_in_kernels
def add(typing: Any, a: Any, b: Any) -> Any:
    """Return the sum of two rows."""
    return a(a, b), lambda context, builder, signature, args: builder.fadd(args[0], args[1])


@_in_kernels
def accumulate(typing: Any, address: Any, scale: Any, row: Any) -> Any:
    """Add `scale` times a row to the sum stored at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        storage = "f64" if row.wide else "f32"
        total = _read(builder, args[0], row, storage)
        _write(builder, args[0], _scaled_sum(builder, args[1], args[2], total, row), row, storage)
        return context.get_dummy_value()

    return types.void(types.int64, row.scalar, row), generate


@_in_kernels
def dot(typing: Any, row: Any, address: Any) -> Any:
    """Return the scalar product of a row and the sum stored at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        vector = _llvm_type(row)
        scalar = vector.element
        product = builder.fmul(args[0], _read(builder, args[1], row, "f64" if row.wide else "f32"))
        name = f"llvm.vector.reduce.fadd.v{row.width}f{64 if row.wide else 32}"
        add_up = _declared(builder, ir.FunctionType(scalar, [scalar, vector]), name)
        return builder.call(add_up, [ir.Constant(scalar, 0.0), product], fastmath=("reassoc",))

    return row.scalar(row, types.int64), generate


@_in_kernels
def prefetch(typing: Any, address: Any) -> Any:
    """Prefetch hint; the address may be invalid."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        at = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        signature = ir.FunctionType(ir.VoidType(), [at.type, INT32, INT32, INT32])
        fetch = _declared(builder, signature, "llvm.prefetch.p0")
        builder.call(fetch, [at, INT32(0), INT32(3), INT32(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@_in_kernels
def times(typing: Any, a: Any, b: Any) -> Any:
    """Multiply int32 by int32 to int32; numba's own product is int64, half as many to a register."""
    signature = types.int32(types.int32, types.int32)
    return signature, lambda context, builder, signature, args: builder.mul(args[0], args[1])


@_in_kernels
def atomic_add(typing: Any, record: Any, index: Any) -> Any:
    """Atomic fetch-and-add of 1 to the 64-bit field `index` of a record; returns the old value."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        counters = builder.bitcast(args[0], INT64.as_pointer())
        counter = builder.gep(counters, [INT64(index.literal_value)], source_etype=INT64)
        return builder.atomic_rmw("add", counter, INT64(1), "monotonic")

    return types.int64(record, index), generate


@_in_kernels
def pointer(typing: Any, address: Any, scalar: Any) -> Any:
    """Return an address as a pointer to numbers of a type such as `np.float32`, for `numba.carray`."""
    make_pointer: Any = types.CPointer  # numba has no types
    kind = make_pointer(scalar.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Value:
        return builder.inttoptr(args[0], context.get_value_type(kind))

    return kind(types.int64, scalar), generate
