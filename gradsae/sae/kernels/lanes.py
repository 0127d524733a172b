"""The loops of `cpu.py` for float32 rows of whole steps, with their sums in vector registers.

numba keeps the sum of a row in memory. Here it is emitted as LLVM vectors of 8 numbers, which any
CPU runs. Each loop adds in the order of the plain loop of its name, so no bit changes.
"""

from itertools import chain
from typing import Any, final

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor, float32

from gradsae.sae.kernels.loops import compiled

LANES = 8
"""Numbers in a vector."""
STEP = 32
"""Columns at a time: as many as LLVM takes of a plain dot product, four vectors. Of a matrix with a
few thousand rows so many columns stay in the second-level cache."""
INT = ir.IntType(64)
FUSED = ("contract",)
"""A product and its sum are rounded once where the CPU can, as in the plain loops."""


def applies(*matrices: Tensor) -> bool:
    """Return whether the rows of these matrices are float32 and whole steps long."""
    return all(m.dtype == float32 and m.shape[-1] % STEP == 0 for m in matrices)


@final
class _Array:
    """A C-contiguous array in generated code."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> None:
        self._array = context.make_array(kind)(context, builder, value)
        self._builder = builder
        self._is_matrix = kind.ndim > 1
        self.vector = ir.VectorType(context.get_value_type(kind.dtype), LANES)

    def place(self, i: Any, column: Any = None) -> Any:
        """Return the address of entry i, or of a column of row i."""
        b = self._builder
        if self._is_matrix:
            i = b.mul(i, self.width())
        start = b.gep(self._array.data, [i])
        return start if column is None else b.gep(start, [column])

    def width(self) -> Any:
        return self._builder.extract_value(self._array.shape, 1)

    def entry(self, i: Any) -> Any:
        return self._builder.load(self.place(i))

    def step(self, row: Any, column: Any) -> list[Any]:
        """Load the STEP numbers of a row from a column on, as vectors."""
        loaded = [self._builder.load(p) for p in self._vectors(row, column)]
        for vector in loaded:
            vector.align = 4
        return loaded

    def write(self, row: Any, column: Any, vectors: list[Any]) -> None:
        for place, vector in zip(self._vectors(row, column), vectors, strict=True):
            self._builder.store(vector, place).align = 4

    def _vectors(self, row: Any, column: Any) -> list[Any]:
        b, start = self._builder, self.place(row, column)
        starts = [b.gep(start, [INT(u)]) for u in range(0, STEP, LANES)]
        return [b.bitcast(p, self.vector.as_pointer()) for p in starts]


def _fused(builder: ir.IRBuilder, total: Any, a: Any, b: Any) -> Any:
    """Return total + a * b."""
    return builder.fadd(total, builder.fmul(a, b, flags=FUSED), flags=FUSED)


def _spread(builder: ir.IRBuilder, value: Any) -> Any:
    """Return a vector of 8 times the same number."""
    none = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(
        builder.insert_element(none, value, ir.IntType(32)(0)), none, zeros
    )


def _halved(builder: ir.IRBuilder, vector: Any, n: int) -> Any:
    """Return the upper half of a vector of n added to its lower half."""
    halves = []
    for first in (0, n // 2):
        mask = [first + i for i in range(n // 2)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), n // 2), mask)
        none = ir.Constant(vector.type, ir.Undefined)
        halves.append(builder.shuffle_vector(vector, none, mask))
    return builder.fadd(*halves)


def _added_up(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """Return the sum of all numbers of four vectors, as LLVM adds up a plain dot product."""
    a, b, c, d = vectors
    total = builder.fadd(builder.fadd(d, c), builder.fadd(b, a))
    for n in (8, 4, 2):
        total = _halved(builder, total, n)
    return builder.extract_element(total, ir.IntType(32)(0))


@intrinsic
def sum_step(typing, start, stop, index, values, W, out, i, column):  # pyright: ignore
    """Write the STEP numbers out[i, column:] = sum of values[e] * W[index[e], column:].

    The sum is over start <= e < stop; entries of value 0 are left out.
    """
    signature = types.void(start, stop, index, values, W, out, i, column)
    return signature, _emit_sum


def _emit_sum(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
    start, stop, *_, i, column = args
    index, values, W, out = (
        _Array(context, builder, kind, value)
        for kind, value in zip(signature.args[2:6], args[2:6], strict=True)
    )
    zero = ir.Constant(W.vector, [0.0] * LANES)
    names = ("head", "test", "add", "next", "done")
    head, test, add, following, done = (builder.append_basic_block(name) for name in names)
    before = builder.block
    builder.branch(head)
    builder.position_at_end(head)
    e = builder.phi(INT)
    sums = [builder.phi(W.vector) for _ in range(0, STEP, LANES)]
    builder.cbranch(builder.icmp_signed("<", e, stop), test, done)
    builder.position_at_end(test)
    value = values.entry(e)
    builder.cbranch(builder.fcmp_unordered("!=", value, value.type(0.0)), add, following)
    builder.position_at_end(add)
    row, factor = W.step(index.entry(e), column), _spread(builder, value)
    added = [_fused(builder, total, factor, w) for total, w in zip(sums, row, strict=True)]
    builder.branch(following)
    builder.position_at_end(following)
    kept = [builder.phi(W.vector) for _ in sums]
    e.add_incoming(start, before)
    e.add_incoming(builder.add(e, INT(1)), following)
    builder.branch(head)
    for total, new, either in zip(sums, added, kept, strict=True):
        either.add_incoming(total, test)
        either.add_incoming(new, add)
        total.add_incoming(zero, before)
        total.add_incoming(either, following)
    builder.position_at_end(done)
    out.write(i, column, sums)
    return context.get_dummy_value()


def _dotting(n: int, sums: bool) -> Any:
    """Return an intrinsic for n entries of latent j at a time, which share what is read of it.

    It writes dots[order[e]] = W[j] . g[rows[e]] for the entries from e on; with `sums` it also adds
    values[order[e]] * g[rows[e]] to out[j], one entry after the other.
    """

    @intrinsic
    def dots(typing, e, j, rows, order, g, W, dots, values, out):  # pyright: ignore
        return types.void(e, j, rows, order, g, W, dots, values, out), emit

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        e, j, *arrays = args
        rows, order, g, W, dots, values, out = (
            _Array(context, builder, kind, value)
            for kind, value in zip(signature.args[2:], arrays, strict=True)
        )
        places = [order.entry(builder.add(e, INT(u))) for u in range(n)]
        factors = [_spread(builder, values.entry(place)) for place in places]
        lines = [rows.entry(builder.add(e, INT(u))) for u in range(n)]
        before, loop = builder.block, builder.append_basic_block("loop")
        builder.branch(loop)
        builder.position_at_end(loop)
        column = builder.phi(INT)
        totals = [[builder.phi(W.vector) for _ in range(0, STEP, LANES)] for _ in lines]
        w, xs = W.step(j, column), [g.step(line, column) for line in lines]
        added = [
            [_fused(builder, *three) for three in zip(total, x, w, strict=True)]
            for total, x in zip(totals, xs, strict=True)
        ]
        if sums:
            sum_ = out.step(j, column)
            for x, factor in zip(xs, factors, strict=True):
                sum_ = [_fused(builder, s, factor, v) for s, v in zip(sum_, x, strict=True)]
            out.write(j, column, sum_)
        following = builder.add(column, INT(STEP))
        column.add_incoming(INT(0), before)
        column.add_incoming(following, loop)
        for total, new in zip(chain(*totals), chain(*added), strict=True):
            total.add_incoming(ir.Constant(W.vector, [0.0] * LANES), before)
            total.add_incoming(new, loop)
        done = builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("<", following, W.width()), loop, done)
        builder.position_at_end(done)
        for place, vectors in zip(places, added, strict=True):
            builder.store(_added_up(builder, vectors), dots.place(place))
        return context.get_dummy_value()

    return dots


dot_one, dot_two = _dotting(1, sums=False), _dotting(2, sums=False)
dot_and_add_one, dot_and_add_two = _dotting(1, sums=True), _dotting(2, sums=True)


@compiled
def sum_rows(start, stop, offsets, index, values, W, out):
    for column in range(0, W.shape[1], STEP):
        for i in range(start, stop):
            sum_step(offsets[i], offsets[i + 1], index, values, W, out, i, column)


@compiled
def dots(start, stop, offsets, rows, order, g, W, out):
    for j in range(start, stop):
        e, last = offsets[j], offsets[j + 1]
        while e + 1 < last:
            dot_two(e, j, rows, order, g, W, out, out, W)
            e += 2
        if e < last:
            dot_one(e, j, rows, order, g, W, out, out, W)


@compiled
def dots_and_sums(start, stop, offsets, rows, order, g, values, W, out, sums):
    for j in range(start, stop):
        sums[j][:] = 0
        e, last = offsets[j], offsets[j + 1]
        while e + 1 < last:
            dot_and_add_two(e, j, rows, order, g, W, out, values, sums)
            e += 2
        if e < last:
            dot_and_add_one(e, j, rows, order, g, W, out, values, sums)
