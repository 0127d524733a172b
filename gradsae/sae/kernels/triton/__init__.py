"""The products and the selection as Triton kernels, for CUDA tensors in fp32, fp16 and bf16.

Sums are taken in fp32, each by one program in a fixed order: results do not vary from run to run.
`backend.py` imports this package only where it is used. With TRITON_INTERPRET=1 in the environment
the same kernels run on CPU tensors, slowly, without a GPU; that is how the tests run them.
"""

from gradsae.sae.kernels.triton.products import dots_and_outer, gather_sum, row_dots, scatter_outer
from gradsae.sae.kernels.triton.rows import unit_rows_
from gradsae.sae.kernels.triton.threshold import count_open, open_entries
from gradsae.sae.kernels.triton.top_k import top_k

__all__ = [
    "count_open",
    "dots_and_outer",
    "gather_sum",
    "open_entries",
    "row_dots",
    "scatter_outer",
    "top_k",
    "unit_rows_",
]
