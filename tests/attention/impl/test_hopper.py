"""The Hopper kernel: as it runs on such a GPU, as it compiles elsewhere, and when it is chosen."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flashvsr.attention import choose_impl, explain_impls
from flashvsr.attention.impl import hopper as impl_hopper
from flashvsr.attention.impl import reference as impl_reference
from flashvsr.attention.impl import triton as impl_triton
from flashvsr.kernels.available import OLDEST_GLUON, minor_version

DTYPES = [torch.bfloat16, torch.float16]
WHY_NOT = (
    impl_hopper.unavailable(torch.device("cuda"), torch.bfloat16, 128, True)
    if torch.cuda.is_available()
    else "no CUDA GPU"
)


def on_hopper(test):
    """Mark a test that needs a Hopper GPU."""
    reason = f"{WHY_NOT}: what this test checks of the Hopper kernel was not checked"
    return pytest.mark.gpu(pytest.mark.skipif(WHY_NOT is not None, reason=reason)(test))


def needs_gluon():
    """Return Triton, or skip the test where its Gluon is not that of the kernels."""
    triton = pytest.importorskip("triton", reason="triton is not installed: the Hopper kernels were not checked")
    if minor_version(triton.__version__) < OLDEST_GLUON:
        pytest.skip(f"triton {triton.__version__} is older than {OLDEST_GLUON}: nothing was checked")
    return triton


def token_major(batch: int, heads: int, blocks: int, dtype: torch.dtype) -> Tensor:
    """Random `[B, heads, N, 128]` as projections leave it: a view of `[B, N, heads, 128]`, here in a wider buffer."""
    x = torch.randn(batch, blocks * 128, 2, heads, 128, device="cuda").to(dtype)
    return x[:, :, 1].transpose(1, 2).requires_grad_()


def irregular_mask(batch: int, heads: int, rows: int, columns: int) -> Tensor:
    """About half of the blocks, with rows that keep nothing, one and all, and a column nobody keeps."""
    mask = torch.rand(batch, heads, rows, columns, device="cuda") < 0.5
    mask[:, 0, 1] = False
    mask[:, 0, 2] = True
    mask[:, 0, 3] = False
    mask[:, 0, 3, 1] = True
    mask[0, :, :, 4] = False
    return mask


def attend(query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    return impl_hopper.attend(query, keys, values, mask, block_size=128, scale=128**-0.5)


def in_float64(query: Tensor, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], mask: Tensor) -> Tensor:
    """Masked softmax attention in float64, every step written out."""
    query, key, value = query.double(), torch.cat(keys, 2).double(), torch.cat(values, 2).double()
    tokens = mask.repeat_interleave(128, 2).repeat_interleave(128, 3)
    weights = (query @ key.transpose(2, 3) * 128**-0.5).exp() * tokens
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-300) @ value


@on_hopper
@pytest.mark.parametrize("pieces", [(10,), (7, 3), (4, 2, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output_and_gradients_err_at_most_twice_as_much_as_the_reference(
    dtype: torch.dtype, pieces: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    query = token_major(2, 3, 8, dtype)
    keys, values = (tuple(token_major(2, 3, blocks, dtype) for blocks in pieces) for _ in range(2))
    mask = irregular_mask(2, 3, 8, 10)
    inputs, grad = [query, *keys, *values], torch.randn_like(query)

    def results(out: Tensor) -> list[Tensor]:
        return [x.double() for x in (out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype)))]

    exact = results(in_float64(query, keys, values, mask))
    reference = results(impl_reference.attend(query, keys, values, mask, block_size=128, scale=128**-0.5))
    ours = results(attend(query, keys, values, mask))
    for name, got, theirs, true in zip(["out", *range(len(inputs))], ours, reference, exact, strict=True):
        assert (got - true).norm() <= 2 * (theirs - true).norm(), f"gradient {name}" if name != "out" else "output"


@on_hopper
def test_the_log_sums_are_those_of_the_triton_kernel() -> None:
    from flashvsr.kernels import attention_hopper_launch as hopper_launch
    from flashvsr.kernels import attention_triton_launch as triton_launch

    torch.manual_seed(1)
    query, key, value = (token_major(1, 2, blocks, torch.bfloat16).detach() for blocks in (4, 9, 9))
    lists = triton_launch.BlockLists.of(irregular_mask(1, 2, 4, 9))
    operands = triton_launch.Operands(query, (key,), (value,), 128, 0.1)
    (_, ours), (_, theirs) = (launch.forward(operands, lists) for launch in (hopper_launch, triton_launch))
    assert ours.isneginf().equal(theirs.isneginf())  # rows without blocks
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@on_hopper
def test_how_keys_are_cut_and_stored_does_not_change_a_bit() -> None:
    torch.manual_seed(2)
    query, key, value = (token_major(1, 2, blocks, torch.float16).detach() for blocks in (4, 6, 6))
    mask = irregular_mask(1, 2, 4, 6)
    out = attend(query, (key,), (value,), mask)
    for cut in (0, 256, 640, 768):  # an empty piece is that of a stream's first chunk
        pieces = [(x[:, :, :cut], x[:, :, cut:]) for x in (key, value)]
        assert out.equal(attend(query, *pieces, mask)), cut
    assert out.equal(attend(query.contiguous(), (key.contiguous(),), (value.contiguous(),), mask))
    odd = torch.empty(key.numel() + 1, dtype=key.dtype, device="cuda")[1:].view(key.shape).copy_(key)
    assert odd.data_ptr() % 16
    assert out.equal(attend(query, (odd,), (value,), mask))


@on_hopper
def test_expanded_masks_and_expanded_keys_equal_their_copies() -> None:
    torch.manual_seed(3)
    query = token_major(2, 2, 4, torch.bfloat16).detach()
    key, value = (token_major(1, 2, 6, torch.bfloat16).detach().expand(2, -1, -1, -1) for _ in range(2))
    for mask in (irregular_mask(1, 1, 4, 6), irregular_mask(2, 1, 4, 6)):
        mask = mask.expand(2, 2, 4, 6)
        copies = (key.contiguous(),), (value.contiguous(),), mask.contiguous()
        assert attend(query, (key,), (value,), mask).equal(attend(query, *copies))


@on_hopper
def test_the_order_of_rows_and_a_second_run_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashvsr.kernels import attention_hopper_launch as hopper_launch

    torch.manual_seed(4)
    query, key, value = (token_major(1, 3, blocks, torch.bfloat16) for blocks in (64, 96, 96))
    mask = irregular_mask(1, 3, 64, 96)
    results = []
    for programs in (1, 64, 1024, 1024):
        monkeypatch.setattr(hopper_launch, "FULLEST_FIRST", programs)
        out = attend(query, (key,), (value,), mask)
        results.append((out, *torch.autograd.grad(out.float().square().sum(), (query, key, value))))
    for other in results[1:]:
        assert all(x.equal(y) for x, y in zip(results[0], other, strict=True))


@on_hopper
def test_keys_that_nobody_keeps_are_never_used() -> None:
    torch.manual_seed(5)
    query, key, value = (token_major(1, 2, 6, torch.bfloat16).detach() for _ in range(3))
    mask = irregular_mask(1, 2, 6, 6)
    mask[..., 4] = False
    out = attend(query, (key,), (value,), mask)
    key[:, :, 512:640] = value[:, :, 512:640] = float("nan")
    assert out.equal(attend(query, (key,), (value,), mask))


@on_hopper
def test_neither_pass_synchronises_with_the_host() -> None:
    query, key, value = (token_major(1, 2, 6, torch.bfloat16) for _ in range(3))
    mask = irregular_mask(1, 2, 6, 6)
    for mode in ("default", "error"):  # the first round compiles
        torch.cuda.set_sync_debug_mode(mode)
        try:
            attend(query, (key,), (value,), mask).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("dtype", "head_dim", "block_size", "words"),
    [
        (torch.float16, 64, 128, "head dim 64"),
        (torch.float32, 128, 128, "float32"),
        (torch.float16, 128, 64, "blocks of 64"),
        (torch.float16, 128, 128, "not device 'cpu'"),
    ],
)
def test_unavailable_says_what_is_in_the_way(dtype: torch.dtype, head_dim: int, block_size: int, words: str) -> None:
    reasons = explain_impls("cpu", dtype, head_dim, False, block_size=block_size)
    assert words in str(reasons["hopper"])


@pytest.mark.parametrize(("capability", "version"), [((8, 9), "3.6.0"), ((10, 0), "3.6.0"), ((9, 0), "3.5.1")])
def test_other_gpus_and_other_versions_of_triton_keep_the_triton_kernels(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], version: str
) -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed: its version was not told")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(triton, "__version__", version)
    where = torch.device("cuda"), torch.bfloat16, 128, True
    expected = "needs triton 3.6" if capability == (9, 0) else f"this GPU has {capability[0]}.{capability[1]}"
    assert expected in str(impl_hopper.unavailable(*where))
    assert impl_triton.unavailable(*where) is None
    assert choose_impl.__wrapped__(*where)[0] == "triton"


@pytest.mark.parametrize("version", ["3.6.0", "3.8.0", "3.99.1"])
@pytest.mark.parametrize("passes", [True, False])
def test_auto_takes_it_with_proven_versions_and_tries_it_with_others(
    monkeypatch: pytest.MonkeyPatch, version: str, passes: bool
) -> None:
    triton = pytest.importorskip("triton", reason="triton is not installed: its version was not told")
    if triton.knobs.runtime.interpret:
        pytest.skip("the interpreter runs no Gluon: nothing was checked")
    from flashvsr.kernels import hopper_trial

    tried = []

    def try_hopper(device: torch.device, dtype: torch.dtype) -> tuple[bool, str]:
        tried.append((device, dtype))
        return passes, "the trial said so"

    monkeypatch.setattr(hopper_trial, "try_hopper", try_hopper)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(triton, "__version__", version)
    name, why = choose_impl.__wrapped__("cuda:0", torch.bfloat16, 128, True)
    if version != "3.99.1":
        assert (name, why, tried) == ("hopper", f"proven with triton {version}", [])
        return
    assert tried == [(torch.device("cuda:0"), torch.bfloat16)]
    assert name == ("hopper" if passes else "triton")
    assert "the trial said so" in why
    assert impl_hopper.unavailable(torch.device("cuda:0"), torch.bfloat16, 128, True) is None  # named, it runs


def test_a_scale_that_is_not_positive_is_refused() -> None:
    x = torch.zeros(1, 1, 128, 128)
    with pytest.raises(ValueError, match=r"got -1\.0"):
        impl_hopper.attend(x, (x,), (x,), torch.ones(1, 1, 1, 1).bool(), block_size=128, scale=-1.0)


def without_gpu(kernel, calls: list[tuple[tuple[int, ...], dict[str, object]]]):
    """Stand in for a kernel: note the grid and every argument under the name of the parameter that takes it."""

    class Launcher:
        def __getitem__(self, grid):
            def launch(*args, num_warps: int, enable_fp_fusion: bool, **constants):
                assert num_warps == 4
                calls.append((grid, inspect.signature(kernel.fn).bind(*args, **constants).arguments))

            return launch

    return Launcher()


@pytest.mark.parametrize("cut", [0, 256, 640])
@pytest.mark.parametrize("kernel", ["attend_forward", "grad_of_query"])
def test_launches_pass_every_argument_in_its_place(kernel: str, cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_gluon()
    from flashvsr.kernels import attention_hopper as hopper_kernels
    from flashvsr.kernels import attention_hopper_grad as hopper_grad_kernels
    from flashvsr.kernels import attention_hopper_launch as hopper_launch

    module = hopper_kernels if kernel == "attend_forward" else hopper_grad_kernels
    calls: list[tuple[tuple[int, ...], dict[str, object]]] = []
    monkeypatch.setattr(module, kernel, without_gpu(getattr(module, kernel), calls))
    ordered = torch.arange(24, dtype=torch.int32).flip(0)
    monkeypatch.setattr(hopper_launch, "order_rows", lambda *_: ordered)
    wide = torch.randn(2, 640, 2, 3, 128, dtype=torch.bfloat16)
    key, value = (wide[:, :, i].transpose(1, 2) for i in range(2))
    query, grad = key[:, :, :512], value[:, :, :512]
    pieces = [(x[:, :, :cut], x[:, :, cut:]) for x in (key, value)]
    operands = hopper_launch.Operands(query, *pieces, 128, 0.5)
    counts = torch.tensor([[[3, 1, 5, 0]]], dtype=torch.int32)
    lists = hopper_launch.BlockLists(counts, torch.zeros(1, 1, 4, 5, dtype=torch.int32))
    sums = torch.empty(2, 3, 512), torch.empty(2, 3, 512)
    if kernel == "attend_forward":
        out, lse = hopper_launch.forward(operands, lists)
        assert lse.shape == (2, 3, 512)
    else:
        out = hopper_launch.grad_query(operands, grad, *sums, lists)
    ((grid, passed),) = calls
    assert grid == (2 * 3 * 4,)
    sizes = {"heads": 3, "rows": 4, "columns": 5, "list_b": 0, "list_h": 0, "first_blocks": cut // 128, "PIECES": 2}
    assert {name: passed[name] for name in sizes} == sizes
    assert [passed[f"out_{dim}"] for dim in "bhn"] == list(out.stride()[:3]) == [512 * 384, 128, 384]
    assert passed["scale_log2"] == pytest.approx(0.5 * 1.4426950408889634)
    assert passed["query"].block_shape == [1, 1, 64, 128]
    assert passed["query"].base.data_ptr() == query.data_ptr()
    for name, piece in zip(("key", "value", "key2", "value2"), [x[i] for i in range(2) for x in pieces], strict=True):
        if piece.numel():
            described = passed[name]
            assert (described.base.data_ptr(), described.shape) == (piece.data_ptr(), list(piece.shape)), name
            assert (described.strides, described.block_shape) == ([*piece.stride()], [1, 1, 128, 128]), name
    assert passed["order"] is ordered


ORDER = """
import torch
from flashvsr.kernels import attention_hopper_launch as hopper_launch
device = "cuda" if torch.cuda.is_available() else "cpu"
counts = torch.tensor([[[1, 2, 3], [4, 0, 9]]], dtype=torch.int32, device=device)
lists = hopper_launch.BlockLists(counts, torch.zeros(1, 2, 3, 9, dtype=torch.int32, device=device))
for last, together in ((4, 2), (4, 4), (4, 8)):
    hopper_launch.FULLEST_FIRST, hopper_launch.ORDERED_TOGETHER = last, together
    order = hopper_launch.order_rows(lists, 1, 2)
    assert order.tolist() == [0, 1, 5, 3, 2, 4], order
    assert order.dtype == torch.int32
hopper_launch.FULLEST_FIRST, hopper_launch.ORDERED_TOGETHER = 1024, 32
for rows in (3, 700, 1024, 1500):
    counts = torch.randint(0, 50, (1, 1, rows), dtype=torch.int32, device=device)
    lists = hopper_launch.BlockLists(counts, torch.zeros(1, 1, rows, 1, dtype=torch.int32, device=device))
    order, early = hopper_launch.order_rows(lists, 1, 1).long(), max(rows - 1024, 0)
    assert order[:early].tolist() == list(range(early))
    expected = counts[0, 0, early:].sort(descending=True, stable=True).indices + early
    assert torch.equal(order[early:], expected), rows
"""


def test_only_the_last_rows_run_fullest_first() -> None:
    needs_gluon()
    environment = dict(os.environ) if torch.cuda.is_available() else {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", ORDER], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_memory_accelerator_cannot_read_is_copied() -> None:
    needs_gluon()
    from flashvsr.kernels import attention_hopper_launch as hopper_launch

    x = torch.randn(1, 2, 256, 128, dtype=torch.float16)
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    padded = torch.empty(1, 2, 256, 132, dtype=x.dtype)[..., :128].copy_(x)
    for odd in (shifted, padded, x[:, :1].expand(-1, 2, -1, -1)):
        described = hopper_launch.describe(odd, 64)
        assert described.base.data_ptr() != odd.data_ptr()
        assert described.base.equal(odd)
        assert described.strides == [2 * 256 * 128 if odd.shape[0] > 1 else 128, 256 * 128, 128, 1]
    assert hopper_launch.describe(x, 64).base is x


def test_importing_it_does_not_import_triton() -> None:
    code = "import sys, flashvsr.attention.impl.hopper; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def compile_for_hopper(function, dtype: str, stages: int):
    """Compile a kernel as it is launched on two pieces."""
    import triton
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    constants = {"PIECES": 2, "STAGES": stages}
    types = dict.fromkeys(constants, "constexpr") | {"lse": "*fp32", "delta": "*fp32"}
    types |= dict.fromkeys(["counts", "indices", "order"], "*i32") | dict.fromkeys(["scale", "scale_log2"], "fp32")
    for names, rows in ((["query", "grad"], 64), (["key", "value", "key2", "value2"], 128)):
        types |= dict.fromkeys(names, f"tensordesc<{dtype}[1, 1, {rows}, 128],{gl.NVMMASharedLayout(128, 16, 4)!r}>")
    types |= dict.fromkeys(["out", "grad_query"], f"*{dtype}")
    signature = {name: types.get(name, "i32") for name in function.arg_names}
    aligned = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(function.arg_names)
        if signature[name].startswith("*") or re.fullmatch("out_[bhn]", name)
    }
    return triton.compile(
        GluonASTSource(function, signature, constants, aligned),
        target=triton.backends.compiler.GPUTarget("cuda", 90, 32),
        options={"num_warps": 4, "enable_fp_fusion": True},
    )


@pytest.mark.slow  # each case compiles for two seconds
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("kernel", ["attend_forward", "grad_of_query"])
def test_kernels_compile_without_spills_and_leave_products_running(kernel: str, dtype: str, tmp_path: Path) -> None:
    triton = needs_gluon()
    from flashvsr.kernels import attention_hopper as hopper_kernels
    from flashvsr.kernels import attention_hopper_grad as hopper_grad_kernels
    from flashvsr.kernels.attention_hopper_launch import STAGES

    function = getattr(hopper_kernels, kernel, None) or getattr(hopper_grad_kernels, kernel)
    compiled = compile_for_hopper(function, dtype, STAGES)
    assert compiled.metadata.shared <= 227 * 1024
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    tools = triton.knobs.nvidia
    usage, code = (
        subprocess.run([*command, tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True).stdout
        for command in ([tools.cuobjdump.path, "-res-usage"], [tools.nvdisasm.path, "-c"])
    )
    assert re.findall(r"(?:STACK|LOCAL):(\d+)", usage) == ["0", "0"]
    # A product of 64 x 128 x 128 is eight instructions that begin as one; a compiler that cannot tell its registers to
    # be untouched meanwhile begins each for itself and waits for it.
    products = code.count("HGMMA.64x128x16")
    assert products > 0
    assert products == 8 * code.count("WARPGROUP.ARRIVE")
