"""The loops of `cpu.py` for float32 rows of whole steps, with their sums in vector registers.

numba keeps the sum of a row in memory. Here it is emitted as LLVM vectors of 8 numbers, which any
CPU runs. Each loop adds in the order of the plain loop of its name, so no bit changes.
"""

from itertools import chain
from typing import Any, final

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor, float32

from gradsae.sae.kernels.loops import compiled, in_order

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

    def __init__(self, context: Any, builder: Any, kind: Any, value: Any) -> None:
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


def _fused(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Return total + a * b."""
    return builder.fadd(total, builder.fmul(a, b, flags=FUSED), flags=FUSED)


def _spread(builder: Any, value: Any) -> Any:
    """Return a vector of 8 times the same number."""
    none = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(
        builder.insert_element(none, value, ir.IntType(32)(0)), none, zeros
    )


def _halved(builder: Any, vector: Any, n: int) -> Any:
    """Return the upper half of a vector of n added to its lower half."""
    halves = []
    for first in (0, n // 2):
        mask = [first + i for i in range(n // 2)]
        mask = ir.Constant(ir.VectorType(ir.IntType(32), n // 2), mask)
        none = ir.Constant(vector.type, ir.Undefined)
        halves.append(builder.shuffle_vector(vector, none, mask))
    return builder.fadd(*halves)


def _added_up(builder: Any, vectors: list[Any]) -> Any:
    """Return the sum of all numbers of four vectors, as LLVM adds up a plain dot product."""
    a, b, c, d = vectors
    total = builder.fadd(builder.fadd(d, c), builder.fadd(b, a))
    for n in (8, 4, 2):
        total = _halved(builder, total, n)
    return builder.extract_element(total, ir.IntType(32)(0))


def _sum_step(typing, start, stop, index, values, W, out, i, column) -> Any:
    """Write the STEP numbers out[i, column:] = sum of values[e] * W[index[e], column:].

    The sum is over start <= e < stop; entries of value 0 are left out.
    """
    signature = types.void(start, stop, index, values, W, out, i, column)
    return signature, _emit_sum


def _emit_sum(context: Any, builder: Any, signature: Any, args: Any) -> Any:
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


sum_step: Any = intrinsic(_sum_step)


def _dotting(n: int, sums: bool) -> Any:
    """Return an intrinsic for n entries of latent j at a time, which share what is read of it.

    It writes dots[order[e]] = W[j] . g[rows[e]] for the entries from e on; with `sums` it also adds
    values[order[e]] * g[rows[e]] to out[j], one entry after the other.
    """

    @intrinsic
    def dots(typing, e, j, rows, order, g, W, dots, values, out):  # pyright: ignore
        return types.void(e, j, rows, order, g, W, dots, values, out), emit

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
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


WORDS = 16
"""16-bit integers in a vector."""


def _integer_products(typing, x, W, out, i, j, row) -> Any:
    """Write the products of rows i to i + 4 of x and j to j + 2 of W, from out[row, j] on.

    x and W hold 16-bit integers in rows of whole vectors; no sum may need more than 32 bits.
    """
    return types.void(x, W, out, i, j, row), _emit_integer_products


def _emit_integer_products(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, W, out = (
        _Array(context, builder, kind, value)
        for kind, value in zip(signature.args[:3], args[:3], strict=True)
    )
    words, sums = ir.VectorType(ir.IntType(16), WORDS), ir.VectorType(ir.IntType(32), LANES)

    def function(result: Any, name: str, *arguments: Any) -> Any:
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(builder.module, kind, name)

    multiply = function(sums, "llvm.x86.avx2.pmadd.wd", words, words)
    add_up = function(ir.IntType(32), "llvm.vector.reduce.add.v8i32", sums)
    i, j, row = args[3:]
    before, loop = builder.block, builder.append_basic_block("loop")
    builder.branch(loop)
    builder.position_at_end(loop)
    column = builder.phi(INT)
    totals = [builder.phi(sums) for _ in range(8)]

    def load(matrix: Any, line: Any) -> Any:
        place = builder.bitcast(matrix.place(line, column), words.as_pointer())
        loaded = builder.load(place)
        loaded.align = 2
        return loaded

    w = [load(W, builder.add(j, INT(u))) for u in range(2)]
    pairs = [(load(x, builder.add(i, INT(r))), w_u) for r in range(4) for w_u in w]
    added = [builder.add(t, builder.call(multiply, p)) for t, p in zip(totals, pairs, strict=True)]
    following = builder.add(column, INT(WORDS))
    column.add_incoming(INT(0), before)
    column.add_incoming(following, loop)
    for total, new in zip(totals, added, strict=True):
        total.add_incoming(ir.Constant(sums, [0] * LANES), before)
        total.add_incoming(new, loop)
    done = builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed("<", following, W.width()), loop, done)
    builder.position_at_end(done)
    for n, total in enumerate(added):
        place = out.place(builder.add(row, INT(n // 2)), builder.add(j, INT(n % 2)))
        builder.store(builder.call(add_up, [total]), place)
    return context.get_dummy_value()


integer_products: Any = intrinsic(_integer_products)


@in_order
def chained(first, stop, i, latents, x, W, b, block, out):
    """Write out[e] = x[i] . W[latents[e]] + b[latents[e]] for 8 entries from `first`, up to `stop`.

    `block` columns are summed up one after the other, then added to the bias: block after block.
    Eight sums at a time keep the CPU busy while each waits for its last addition.
    """
    last = stop - 1
    j0, j1 = latents[first], latents[min(first + 1, last)]
    j2, j3 = latents[min(first + 2, last)], latents[min(first + 3, last)]
    j4, j5 = latents[min(first + 4, last)], latents[min(first + 5, last)]
    j6, j7 = latents[min(first + 6, last)], latents[min(first + 7, last)]
    t0, t1, t2, t3, t4, t5, t6, t7 = b[j0], b[j1], b[j2], b[j3], b[j4], b[j5], b[j6], b[j7]
    for start in range(0, W.shape[1], block):
        a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = W.dtype.type(0)
        for k in range(start, min(start + block, W.shape[1])):
            v = x[i, k]
            a0 += v * W[j0, k]
            a1 += v * W[j1, k]
            a2 += v * W[j2, k]
            a3 += v * W[j3, k]
            a4 += v * W[j4, k]
            a5 += v * W[j5, k]
            a6 += v * W[j6, k]
            a7 += v * W[j7, k]
        t0, t1, t2, t3 = t0 + a0, t1 + a1, t2 + a2, t3 + a3
        t4, t5, t6, t7 = t4 + a4, t5 + a5, t6 + a6, t7 + a7
    sums = (t0, t1, t2, t3, t4, t5, t6, t7)
    for e in range(first, min(first + 8, stop)):
        out[e] = sums[e - first]


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
