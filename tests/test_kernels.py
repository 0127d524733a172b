"""Every fast path equals the plain one, forward and backward."""

import pytest
import torch
from llvmlite.binding import get_host_cpu_features

from gradsae.sae import kernels
from gradsae.sae.codes import DenseCodes, SparseCodes, from_dense, from_rows
from gradsae.sae.kernels import builtin, cpu, lanes, loops, reference
from gradsae.sae.kernels.gates.gate import per_entry
from gradsae.sae.kernels.gates.jumprelu import JumpReLUGate
from gradsae.sae.kernels.gates.threshold import JumpGate, ReLUGate
from gradsae.sae.kernels.gates.topk import TopKGate
from gradsae.sae.kernels.jump import step

BACKENDS = [builtin, cpu]
every_backend = pytest.mark.parametrize("run", BACKENDS, ids=lambda m: m.__name__)


def ragged(generator: torch.Generator, dtype: torch.dtype, batch=7, d_sae=11) -> SparseCodes:
    """Codes with an empty row, a full row, a latent nobody uses and one everybody uses."""
    dense = torch.randn(batch, d_sae, generator=generator, dtype=dtype)
    dense *= torch.rand(batch, d_sae, generator=generator) < 0.4
    dense[2] = 0
    dense[3] = 1.5
    dense[:, 5] = 0
    dense[:, 6] = -2.0
    return from_dense(dense)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("empty", [False, True])
def test_the_three_products_equal_the_reference(run, dtype, empty, generator):
    codes = ragged(generator, dtype)
    if empty:
        codes = from_dense(torch.zeros(7, 11, dtype=dtype))
    W = torch.randn(11, 5, generator=generator, dtype=dtype)
    g = torch.randn(7, 5, generator=generator, dtype=dtype)
    v, j, o = codes.values, codes.latents, codes.offsets
    torch.testing.assert_close(run.gather_sum(codes, v, W), reference.gather_sum(v, j, o, W))
    torch.testing.assert_close(run.row_dots(codes, W, g), reference.row_dots(j, o, W, g))
    torch.testing.assert_close(
        run.scatter_outer(codes, v, g), reference.scatter_outer(v, j, o, g, 11)
    )


@every_backend
def test_the_fused_backward_equals_its_two_products(run, generator):
    codes = ragged(generator, torch.float32)
    W, g = torch.randn(11, 5, generator=generator), torch.randn(7, 5, generator=generator)
    v, j, o = codes.values, codes.latents, codes.offsets
    dots, outer = run.dots_and_outer(codes, v, W, g)
    torch.testing.assert_close(dots, reference.row_dots(j, o, W, g))
    torch.testing.assert_close(outer, reference.scatter_outer(v, j, o, g, 11))


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "k"), [(7, 1), (7, 7), (300, 5), (1000, 3), (130, 64), (40, 40)])
def test_top_k_finds_the_values_of_a_sort(run, dtype, n, k, generator):
    pre = torch.randn(20, n, generator=generator, dtype=dtype)
    pre[3] = 2.0  # ties only
    pre[4] = pre[4].round()  # many ties
    pre[5] = -pre[5].abs()
    values, latents = run.top_k(pre, k)
    expected = pre.sort(1, descending=True).values[:, :k]
    assert torch.equal(values.sort(1, descending=True).values, expected)
    assert torch.equal(pre.gather(1, latents), values)
    assert all(len(set(row)) == k for row in latents.tolist())


@every_backend
def test_a_nan_stays_visible_in_the_top_k(run, generator):
    pre = torch.randn(2, 400, generator=generator)
    pre[1, 100:] = float("nan")
    values, _ = run.top_k(pre, 200)
    assert values[0].isfinite().all()
    assert not values[1].isfinite().all()


@every_backend
def test_unit_rows_have_norm_one_and_their_direction(run, generator):
    W = torch.randn(6, 5, generator=generator)
    W[2] = 0
    expected = torch.nn.functional.normalize(W, dim=1)
    run.unit_rows_(W)
    torch.testing.assert_close(W, expected)


@every_backend
def test_non_contiguous_operands_are_read_right(run, generator):
    codes = ragged(generator, torch.float32)
    W = torch.randn(5, 11, generator=generator).mT
    g = torch.randn(5, 7, generator=generator).mT
    dense = codes.to_dense()
    torch.testing.assert_close(run.gather_sum(codes, codes.values, W), dense @ W)
    torch.testing.assert_close(run.scatter_outer(codes, codes.values, g), dense.mT @ g)


@every_backend
def test_open_entries_are_those_above_zero_row_by_row(run, generator):
    pre = torch.randn(9, 13, generator=generator)
    pre[4] = -1
    pre[5, 3] = 0.0
    codes = run.open_entries(pre, run.count_open(pre), int((pre > 0).sum()))
    assert torch.equal(codes.to_dense(), pre.relu())
    assert codes.offsets.diff().tolist() == (pre > 0).sum(1).tolist()
    assert torch.equal(codes.latents, (pre > 0).nonzero()[:, 1])


def test_the_counting_sort_equals_the_stable_sort(generator):
    codes = ragged(generator, torch.float32, batch=40, d_sae=17)
    plain = from_dense(codes.to_dense()).transpose
    for ours, expected in zip(cpu.transpose(codes), plain, strict=True):
        assert torch.equal(ours, expected)


def test_codes_with_other_values_share_what_was_sorted(generator):
    codes = ragged(generator, torch.float32)
    assert codes.with_values(codes.values * 2).transpose is codes.transpose


def test_several_threads_give_the_bits_of_one(generator, monkeypatch):
    codes = ragged(generator, torch.float32, batch=300, d_sae=40)
    W = torch.randn(40, 16, generator=generator)
    g = torch.randn(300, 16, generator=generator)

    def products() -> list[torch.Tensor]:
        dots = cpu.row_dots(codes, W, g)
        pre = codes.to_dense()
        found = cpu.open_entries(pre, cpu.count_open(pre), int((pre > 0).sum()))
        outer = cpu.scatter_outer(codes, codes.values, g)
        return [cpu.gather_sum(codes, codes.values, W), dots, outer, found.values]

    alone = products()
    monkeypatch.setattr(loops, "SERIAL_BELOW", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert all(torch.equal(a, b) for a, b in zip(alone, products(), strict=True))


@pytest.mark.parametrize("width", [32, 96])
def test_sums_in_registers_have_the_bits_of_the_plain_loops(width, generator, monkeypatch):
    codes = ragged(generator, torch.float32, batch=37, d_sae=23)
    W = torch.randn(23, width, generator=generator)
    g = torch.randn(37, width, generator=generator)

    def products() -> list[torch.Tensor]:
        v = codes.values
        dots = [cpu.row_dots(codes, W, g), *cpu.dots_and_outer(codes, v, W, g)]
        return [cpu.gather_sum(codes, v, W), cpu.scatter_outer(codes, v, g), *dots]

    fast = products()
    monkeypatch.setattr(lanes, "applies", lambda *matrices: False)
    plain = products()
    sums = (0, 1, 4)
    assert all(torch.equal(fast[i], plain[i]) for i in sums)
    for i in (2, 3):  # how wide LLVM makes a plain dot product is its own choice
        torch.testing.assert_close(fast[i], plain[i])
    if not get_host_cpu_features().get("avx512f", False):
        assert all(torch.equal(a, b) for a, b in zip(fast, plain, strict=True))


def test_bfloat16_takes_the_builtin_path(generator):
    codes = ragged(generator, torch.bfloat16)
    W = torch.randn(11, 5, generator=generator).bfloat16()
    assert kernels.backend(W) is builtin
    expected = (codes.to_dense().float() @ W.float()).bfloat16()
    torch.testing.assert_close(kernels.decode(codes, W), expected, rtol=0.05, atol=0.05)


def dense_gate(pre, b_enc, gate):
    """The textbook forward of each gate, for autograd to differentiate."""
    if isinstance(gate, TopKGate):
        kth = pre.sort(1, descending=True).values[:, gate.k - 1 : gate.k]
        return torch.where(pre >= kth, pre.relu(), 0.0)
    return torch.where(pre > 0, pre - b_enc.detach() * isinstance(gate, JumpGate), 0.0)


def gated(pre: torch.Tensor, gate) -> SparseCodes | DenseCodes:
    """The codes of given pre-activations: the encoder is the identity."""
    n = pre.shape[1]
    return kernels.encode(pre, torch.eye(n), torch.zeros(n), None, gate).codes


GATES = [TopKGate(k=1), TopKGate(k=3), TopKGate(k=11), ReLUGate()]


@pytest.mark.parametrize("gate", [*GATES, JumpGate()], ids=repr)
@pytest.mark.parametrize("shift", [0.0, -2.0, -1e3], ids=["dense", "sparse", "closed"])
@pytest.mark.parametrize("pre_bias", [False, True])
def test_encode_and_decode_equal_plain_autograd(gate, shift, pre_bias, generator):
    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, target = draw(7, 5), draw(7, 5)
    jump = isinstance(gate, JumpGate)
    params = [draw(11, 5), -draw(11).abs() + shift, draw(11, 5), draw(5)]
    ours = [p.clone().requires_grad_() for p in params]
    plain = [p.clone().requires_grad_() for p in params]

    W_enc, b_enc, W_dec, b_pre = ours
    codes = kernels.encode(
        x, W_enc, b_enc.detach() if jump else b_enc, b_pre if pre_bias else None, gate
    ).codes
    (kernels.decode(codes, W_dec) - target).square().sum().backward()

    W_enc, b_enc, W_dec, b_pre = plain
    u = (x - b_pre * pre_bias) @ W_enc.mT
    pre = u + (b_enc.detach() if jump else b_enc)
    value = torch.where(pre > 0, u, 0.0) if jump else dense_gate(pre, b_enc, gate)
    (value @ W_dec - target).square().sum().backward()

    torch.testing.assert_close(codes.to_dense(), value)
    for a, b in zip(ours, plain, strict=True):
        expected = torch.zeros_like(a) if b.grad is None else b.grad
        torch.testing.assert_close(torch.zeros_like(a) if a.grad is None else a.grad, expected)


def test_the_sparse_backward_passes_gradcheck(generator):
    codes = ragged(generator, torch.float64)
    W = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    values = codes.values.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, W: kernels.decode(codes.with_values(v), W), (values, W)
    )


def test_top_k_of_tied_values_keeps_exactly_k():
    codes = gated(torch.ones(3, 6), TopKGate(k=2))
    assert codes.n_open().tolist() == [2, 2, 2]


def test_negative_values_in_the_top_k_are_closed():
    pre = torch.tensor([[-1.0, 3.0, -2.0]])
    codes = gated(pre, TopKGate(k=2))
    assert codes.to_dense().tolist() == [[0.0, 3.0, 0.0]]
    assert codes.n_open().tolist() == [1]


def test_dense_and_sparse_codes_answer_alike(generator):
    sparse = ragged(generator, torch.float32)
    dense = kernels.DenseCodes(values=sparse.to_dense())
    weight = torch.rand(11, generator=generator)
    assert torch.equal(sparse.n_open(), dense.n_open())
    assert torch.equal(sparse.fired(), dense.fired())
    assert torch.equal(sparse.peak(), dense.peak())
    torch.testing.assert_close(sparse.weighted_sum(weight), dense.weighted_sum(weight))


def test_from_rows_holds_k_entries_a_row():
    codes = from_rows(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0, 2], [1, 0]]), 3)
    assert codes.to_dense().tolist() == [[1.0, 0.0, 2.0], [4.0, 3.0, 0.0]]


@pytest.mark.parametrize("shift", [0.0, -2.5], ids=["dense", "sparse"])
@pytest.mark.parametrize("to_input", [False, True])
def test_jumprelu_equals_the_dense_formula_of_the_paper(shift, to_input, generator):
    """Equations 11 and 12, written out over the full matrix of pre-activations."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width, coefficient = 0.8, 0.3
    x, target, bias = draw(60, 5), draw(60, 5), draw(200) + shift
    W_enc, W_dec = draw(200, 5) / 2, draw(200, 5)
    threshold = 0.5 + draw(200).abs()
    gate = JumpReLUGate(200, bandwidth=width, to_input=to_input).double()
    gate.threshold.data.copy_(threshold)
    ours = [p.clone().requires_grad_() for p in (W_enc, bias, W_dec)]
    ours.insert(2, gate.threshold)
    codes, pre, _ = kernels.encode(x, ours[0], ours[1], None, gate)
    assert isinstance(codes, DenseCodes) == (shift == 0.0)
    opened = step(pre.values, per_entry(ours[2], pre), width, to_input).sum()
    loss = (kernels.decode(codes, ours[3]) - target).square().sum() + coefficient * opened
    loss.backward()

    z = x @ W_enc.mT + bias
    is_open = z > threshold
    near = ((z - threshold).abs() < width / 2) / width
    grad_recon = 2 * ((z * is_open) @ W_dec - target)
    grad_f = grad_recon @ W_dec.mT
    pseudo = (grad_f * threshold + coefficient) * near
    grad_z = grad_f * is_open + pseudo * to_input
    torch.testing.assert_close(codes.to_dense(), z * is_open)
    assert loss.item() == pytest.approx(
        (((z * is_open) @ W_dec - target).square().sum() + coefficient * is_open.sum()).item()
    )
    expected = [grad_z.mT @ x, grad_z.sum(0), -pseudo.sum(0), (z * is_open).mT @ grad_recon]
    for parameter, grad in zip(ours, expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
