"""Triton and Gluon sources with their launches, what else a device does, and the one answer to what can run where.

Importing it loads no kernel. An operation with a kernel has a plain form in PyTorch as well; ``impl="auto"`` takes the
kernel where :func:`available` and the call allow, a named one runs or raises :class:`ImplUnavailableError`.
"""

from flashvsr.kernels.available import KERNELS, ImplUnavailableError, available, proof, takes_kernel, unavailable

__all__ = ["KERNELS", "ImplUnavailableError", "available", "proof", "takes_kernel", "unavailable"]
