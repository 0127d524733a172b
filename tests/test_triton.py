"""The Triton kernels equal the plain products and the plain selection.

Without a GPU they run in Triton's interpreter, on CPU tensors; the test marked `gpu` runs this file
again, compiled.
"""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch.testing import assert_close

from gradsae.sae import kernels
from gradsae.sae.codes import SparseCodes, from_dense
from gradsae.sae.kernels import reference
from gradsae.sae.kernels.gates.gate import Gate
from gradsae.sae.kernels.gates.threshold import JumpGate, ReLUGate
from gradsae.sae.kernels.gates.topk import TopKGate

DEVICE = torch.device(os.environ.get("GRADSAE_TEST_DEVICE", "cpu"))

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)
if DEVICE.type == "cpu":
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("triton was imported without its interpreter", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"  # must be set before triton is imported

from gradsae.sae.kernels import triton as run  # noqa: E402
from gradsae.sae.kernels.triton import products, threshold  # noqa: E402

selection = sys.modules["gradsae.sae.kernels.triton.top_k"]
backends = sys.modules["gradsae.sae.kernels.backend"]

DTYPES = [torch.float32, torch.bfloat16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
NEAR = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""Half a unit in the last place of bf16 is 2^-9; sums in another order may differ by more."""


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Make small tensors take the paths of large ones: several parts, several tiles, pieces."""
    monkeypatch.setattr(selection, "TILE", 16)
    monkeypatch.setattr(threshold, "TILE", 8)
    monkeypatch.setattr(products, "WIDTH", 16)
    monkeypatch.setattr(products, "ENTRIES", 4)
    monkeypatch.setattr(products, "LONGEST", 3)


def draw(generator: torch.Generator, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def ragged(generator: torch.Generator, dtype: torch.dtype, batch=7, d_sae=11) -> SparseCodes:
    """Codes with an empty row, a full row, a latent nobody uses and one everybody uses."""
    dense = draw(generator, batch, d_sae)
    dense *= torch.rand(batch, d_sae, generator=generator).to(DEVICE) < 0.4
    dense[2] = 0
    dense[3] = 1.5
    dense[:, 5] = 0
    dense[:, 6] = -2.0
    return from_dense(dense.to(dtype))


def check_top_k(pre: torch.Tensor, k: int) -> None:
    values, latents = run.top_k(pre, k)
    assert latents.dtype == torch.int64
    assert all(len(set(row)) == k for row in latents.tolist())
    assert torch.equal(values, pre.gather(1, latents))
    expected = pre.sort(1, descending=True).values[:, :k]
    assert torch.equal(values.sort(1, descending=True).values, expected)


@every_dtype
@pytest.mark.parametrize(("d_sae", "k"), [(1, 1), (11, 1), (11, 11), (17, 4), (40, 3), (40, 40)])
def test_top_k_keeps_the_k_largest_of_each_row(dtype, d_sae, k, generator):
    check_top_k(draw(generator, 5, d_sae, dtype=dtype), k)


@every_dtype
@pytest.mark.parametrize("k", [1, 3])
def test_top_k_of_ties_and_odd_values_keeps_exactly_k(dtype, k, generator):
    pre = torch.randint(-1, 2, (7, 20), generator=generator).to(dtype)
    pre[0], pre[1], pre[2] = 0, -1, torch.where(pre[2] > 0, 0.0, -0.0)
    pre[3, 7], pre[3, 15] = float("inf"), -float("inf")
    pre[4], pre[4, 9] = -float("inf"), torch.finfo(dtype).tiny
    pre[5] = -torch.finfo(dtype).max
    check_top_k(pre.to(DEVICE), k)


@every_dtype
def test_top_k_reads_transposed_and_sliced_rows(dtype, generator):
    pre = draw(generator, 20, 6, dtype=dtype).mT
    check_top_k(pre, 3)
    check_top_k(draw(generator, 6, 20, dtype=dtype)[::2, 1:], 3)


@every_dtype
def test_open_entries_are_those_above_zero_row_by_row(dtype, generator):
    pre = draw(generator, 6, 21, dtype=dtype)
    pre[2], pre[3, 4], pre[4] = -1, 0.0, 2.0
    for rows in (pre, pre[:, ::2], pre.mT):
        n_open = run.count_open(rows)
        assert torch.equal(n_open, (rows > 0).sum(1))
        codes = run.open_entries(rows, n_open, int(n_open.sum()))
        assert torch.equal(codes.to_dense(), rows.relu())
        assert torch.equal(codes.latents, (rows > 0).nonzero()[:, 1])


def test_closed_rows_alone_have_no_entries():
    pre = -torch.ones(3, 5, device=DEVICE)
    assert run.count_open(pre).tolist() == [0, 0, 0]
    assert len(run.open_entries(pre, run.count_open(pre), 0).values) == 0


@every_dtype
def test_rows_are_scaled_to_norm_1_in_place(dtype, generator, monkeypatch):
    monkeypatch.setattr(sys.modules["gradsae.sae.kernels.triton.rows"], "WIDTH", 8)
    W = draw(generator, 5, 20, dtype=dtype)
    W[3] = 0
    for rows in (W, W[:, ::2], W.mT):
        expected = torch.nn.functional.normalize(rows.float(), dim=1)
        run.unit_rows_(rows)
        assert_close(rows.float(), expected, rtol=NEAR[dtype], atol=NEAR[dtype])


@every_dtype
@pytest.mark.parametrize("d_in", [1, 20])
def test_the_three_products_equal_the_reference(dtype, d_in, generator):
    codes = ragged(generator, dtype)
    W, g = draw(generator, 11, d_in, dtype=dtype), draw(generator, 7, d_in, dtype=dtype)
    v, j, o = codes.values.float(), codes.latents, codes.offsets
    near = {"rtol": NEAR[dtype], "atol": NEAR[dtype], "check_dtype": False}
    answers = [
        (run.gather_sum(codes, codes.values, W), reference.gather_sum(v, j, o, W.float())),
        (run.row_dots(codes, W, g), reference.row_dots(j, o, W.float(), g.float())),
        (
            run.scatter_outer(codes, codes.values, g),
            reference.scatter_outer(v, j, o, g.float(), 11),
        ),
    ]
    for ours, plain in answers:
        assert ours.dtype == dtype
        assert_close(ours, plain, **near)


@every_dtype
def test_products_of_no_entries_are_zero(dtype, generator):
    codes = from_dense(torch.zeros(4, 6, dtype=dtype, device=DEVICE))
    W, g = draw(generator, 6, 5, dtype=dtype), draw(generator, 4, 5, dtype=dtype)
    assert run.gather_sum(codes, codes.values, W).count_nonzero() == 0
    assert run.row_dots(codes, W, g).shape == (0,)
    assert run.scatter_outer(codes, codes.values, g).count_nonzero() == 0


def test_non_contiguous_operands_are_read_right(generator):
    codes = ragged(generator, torch.float32)
    dense = codes.to_dense()
    for W in (draw(generator, 20, 11).mT, draw(generator, 22, 20)[::2]):
        assert_close(run.gather_sum(codes, codes.values, W), dense @ W)
    for g in (draw(generator, 20, 7).mT, draw(generator, 14, 40)[::2, ::2]):
        assert_close(run.scatter_outer(codes, codes.values, g), dense.mT @ g)
        W = draw(generator, 20, 11).mT
        rows = (g @ W.mT)[codes.rows, codes.latents]
        assert_close(run.row_dots(codes, W, g), rows)


def test_bf16_weights_with_fp32_values_are_summed_in_fp32(generator):
    codes = ragged(generator, torch.float32)
    W, g = (draw(generator, n, 9, dtype=torch.bfloat16) for n in (11, 7))
    dense = codes.to_dense()
    assert_close(run.gather_sum(codes, codes.values, W), dense @ W.float())
    assert_close(run.scatter_outer(codes, codes.values, g), dense.mT @ g.float())
    rows = (g.float() @ W.float().mT)[codes.rows, codes.latents]
    assert_close(run.row_dots(codes, W, g), rows)


def test_a_latent_split_in_pieces_has_the_sum_of_all(generator):
    """Sum 0 to n_rows - 1 by one latent: n (n - 1) / 2, for counts around the cuts."""
    for n in (1, 3, 4, 6, 7, 13):
        codes = from_dense(torch.ones(n, 1, device=DEVICE))
        x = torch.arange(n, dtype=torch.float32, device=DEVICE)[:, None]
        assert run.scatter_outer(codes, codes.values, x).item() == n * (n - 1) / 2


GATES = [TopKGate(k=2), TopKGate(k=7), ReLUGate(), JumpGate()]


def step(gate: Gate, params: list[torch.Tensor], x, target) -> list[torch.Tensor]:
    """Return the reconstruction of one encode and decode, and all gradients."""
    W_enc, b_enc, W_dec, b_pre = leaves = [p.clone().requires_grad_() for p in params]
    codes = kernels.encode(x, W_enc, b_enc, b_pre, gate).codes
    recon = kernels.decode(codes, W_dec)
    (recon - target).square().sum().backward()
    return [recon, *(torch.zeros_like(p) if p.grad is None else p.grad for p in leaves)]


@pytest.mark.parametrize("gate", GATES, ids=repr)
@pytest.mark.parametrize("shift", [0.0, -1e3], ids=["open", "closed"])
def test_encode_and_decode_with_triton_equal_those_without(gate, shift, generator, monkeypatch):
    for name in ("gradsae.sae.kernels.gates", "gradsae.sae.kernels.select"):
        if hasattr(sys.modules.get(name), "DENSE_ABOVE"):
            monkeypatch.setattr(sys.modules[name], "DENSE_ABOVE", 1.0)
    x, target = draw(generator, 5, 3), draw(generator, 5, 3)
    params = [draw(generator, *shape) for shape in ((7, 3), (7,), (7, 3), (3,))]
    params[1] = -params[1].abs() + shift
    monkeypatch.setattr(backends, "wants_triton", lambda tensor: False)
    plain = step(gate, params, x, target)
    monkeypatch.setattr(backends, "wants_triton", lambda tensor: True)
    assert backends.backend(x) is run
    for ours, expected in zip(step(gate, params, x, target), plain, strict=True):
        assert_close(ours, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_all_of_this_holds_compiled_on_a_gpu():
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["GRADSAE_TEST_DEVICE"] = "cuda"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu and not slow", __file__]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_all_kernels_compile_for_an_h100_without_one(tmp_path):
    """Compilation needs no GPU; it runs in a process of its own, without the interpreter."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["compiled"] * 10


COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gradsae.sae.kernels.triton import products, rows, threshold

def compile_kernel(kernel, consts, num_warps, **types):
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    consts = {(kernel.arg_names.index(name),): value for name, value in consts.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=consts)
    triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps})
    print("compiled")

kinds = dict(W="*fp32", stride="i32", step="i32")
compile_kernel(rows._unit_kernel, dict(d_in=2304, WIDTH=1024), 4, **kinds)
select = sys.modules["gradsae.sae.kernels.triton.top_k"]._select_kernel
for word in ("*i16", "*i32"):
    kinds = dict(bits=word, out=word, slots="*i64", n="i32", n_parts="i32", k="i32")
    compile_kernel(select, dict(TILE=8192), 16, **kinds)
for of in ("*bf16", "*fp32"):
    tile, ints = dict(TILE=4096), dict(stride="i32", d_sae="i32")
    compile_kernel(threshold._count_kernel, tile, 8, pre=of, n_open="*i64", **ints)
tile = dict(ENTRIES=16, WIDTH=256)
kinds = dict(pre="*bf16", offsets="*i64", latents="*i64", values="*bf16")
compile_kernel(threshold._fill_kernel, dict(TILE=4096), 8, **kinds, **ints)
for of in ("*bf16", "*fp32"):
    kinds = dict(starts="*i64", stops="*i64", index="*i64", values="*fp32", M=of, out="*fp32")
    compile_kernel(products._sum_kernel, tile, 4, **kinds, stride="i32", d_in="i32")
kinds = dict(offsets="*i64", latents="*i64", W="*bf16", g="*bf16", out="*fp32")
kinds |= dict(stride_W="i32", stride_g="i32")
compile_kernel(products._dots_kernel, dict(d_in=768, **tile), 4, **kinds)
kinds = dict(owners="*i64", firsts="*i64", sums="*fp32", d_sae="i32", d_in="i32")
compile_kernel(products._add_kernel, dict(WIDTH=256), 4, **kinds)
"""
