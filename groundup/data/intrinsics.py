"""What kernels may do that numba has no word for: memory by address, bits, 64 bytes at once (LLVM's instructions)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir

from groundup.data.jit import inlined, intrinsic, types

WINDOW = 64  # bytes that are looked at as one number of bits

# Kernels read text by address (`data.ctypes.data`) because numba counts references to an array that is handed to a
# function, with atomic operations, which costs more than the reading. The caller keeps the array alive.


def _peek(_context: Any, _address: Any, _at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(builder.add(args[0], args[1]), ir.IntType(8).as_pointer())
        return builder.zext(builder.load(place, align=1), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


def _peek_8(_context: Any, _address: Any, _at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.inttoptr(builder.add(args[0], args[1]), ir.IntType(64).as_pointer())
        return builder.load(place, align=1)

    return types.uint64(types.int64, types.int64), generate


def _item(builder: Any, bits: int, address: Any, index: Any) -> Any:
    """A pointer to an item of so many bits of an array."""
    size = ir.Constant(ir.IntType(64), bits // 8)
    return builder.inttoptr(builder.add(address, builder.mul(index, size)), ir.IntType(bits).as_pointer())


def _peek_uint32(_context: Any, _address: Any, _index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.load(_item(builder, 32, *args), align=4), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


def _poke_uint32(_context: Any, _address: Any, _index: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(builder.trunc(args[2], ir.IntType(32)), _item(builder, 32, *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _poke_uint64(_context: Any, _address: Any, _index: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _item(builder, 64, *args[:2]), align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint64), generate


def _load_window(builder: Any, address: Any, at: Any) -> Any:
    place = builder.inttoptr(builder.add(address, at), ir.VectorType(ir.IntType(8), WINDOW).as_pointer())
    return builder.load(place, align=1)


def _splat(builder: Any, value: Any) -> Any:
    """A window of this number's lowest byte."""
    bytes_ = ir.VectorType(ir.IntType(8), WINDOW)
    one = builder.insert_element(
        ir.Constant(bytes_, ir.Undefined), builder.trunc(value, ir.IntType(8)), ir.Constant(ir.IntType(32), 0)
    )
    return builder.shuffle_vector(
        one,
        ir.Constant(bytes_, ir.Undefined),
        ir.Constant(ir.VectorType(ir.IntType(32), WINDOW), [0] * WINDOW),
    )


def _bytes_between(_context: Any, _address: Any, _at: Any, _bits: Any, _low: Any, _high: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, at, bits, low, high = args
        window = builder.or_(_load_window(builder, address, at), _splat(builder, bits))
        distance = builder.sub(window, _splat(builder, low))
        found = builder.icmp_unsigned("<=", distance, _splat(builder, builder.sub(high, low)))
        return builder.bitcast(found, ir.IntType(WINDOW))

    return types.uint64(*[types.int64] * 5), generate


def _bytes_repeated(_context: Any, _address: Any, _at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        following = builder.add(args[1], ir.Constant(ir.IntType(64), 1))
        here, there = _load_window(builder, *args), _load_window(builder, args[0], following)
        return builder.bitcast(builder.icmp_unsigned("==", here, there), ir.IntType(WINDOW))

    return types.uint64(types.int64, types.int64), generate


def _copy_window(_context: Any, _address: Any, _at: Any, _to: Any, _place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, at, to, place = args
        there = builder.inttoptr(builder.add(to, place), ir.VectorType(ir.IntType(8), WINDOW).as_pointer())
        builder.store(_load_window(builder, address, at), there, align=1)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _lowest_bit(_context: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


def _highest_bit(_context: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        zeros = builder.ctlz(args[0], ir.Constant(ir.IntType(1), 0))
        return builder.sub(ir.Constant(ir.IntType(64), 63), zeros)

    return types.int64(types.uint64), generate


def _bits_set(_context: Any, _value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


# peek(address, at): the byte at an address in memory plus `at`, as an int64.
peek = cast(Callable[[int, int], int], intrinsic(_peek))
# peek_8(address, at): the eight bytes from there on, as a little-endian uint64.
peek_8 = cast(Callable[[int, int], np.uint64], intrinsic(_peek_8))
# peek_uint32(address, index): the number at an index of an array of uint32, as an int64; poke_uint32 stores one, and
# poke_uint64 one of uint64.
peek_uint32 = cast(Callable[[int, int], int], intrinsic(_peek_uint32))
poke_uint32 = cast(Callable[[int, int, int], None], intrinsic(_poke_uint32))
poke_uint64 = cast(Callable[[int, int, np.uint64], None], intrinsic(_poke_uint64))
# bytes_between(address, at, bits, low, high): of the 64 bytes from there on, those between `low` and `high`, both
# included, after these bits are set in them: bit i of a uint64 is the byte at + i.
bytes_between = cast(Callable[[int, int, int, int, int], np.uint64], intrinsic(_bytes_between))
# bytes_repeated(address, at): those that the byte behind them is equal to.
bytes_repeated = cast(Callable[[int, int], np.uint64], intrinsic(_bytes_repeated))
# copy_window(address, at, to, place): copy the 64 bytes from there on to the address `to` plus `place`.
copy_window = cast(Callable[[int, int, int, int], None], intrinsic(_copy_window))
# lowest_bit(value): the place of a uint64's lowest bit that is set, 64 where none is; highest_bit: of its highest, -1
# where none is; bits_set: how many are.
lowest_bit = cast(Callable[[np.uint64], int], intrinsic(_lowest_bit))
highest_bit = cast(Callable[[np.uint64], int], intrinsic(_highest_bit))
bits_set = cast(Callable[[np.uint64], int], intrinsic(_bits_set))


@inlined
def bytes_equal(address: int, at: int, code: int) -> np.uint64:
    """Those of the 64 bytes from there on that are this one."""
    return bytes_between(address, at, 0, code, code)
