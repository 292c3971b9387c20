"""Say what this installation can run here, and for what it cannot, why not."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``flashvsr info`` takes: nothing."""


def run(args: argparse.Namespace) -> int:
    """Print versions, devices and implementations, and return the exit status."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from flashvsr import __version__
    from flashvsr.attention import choose_impl, explain_impls
    from flashvsr.kernels import KERNELS, available, proof
    from flashvsr.kernels.available import NO_GPU_YET
    from flashvsr.models.loading import choose_dtype

    print(f"flashvsr {__version__}")
    for name in ("torch", "torchvision", "triton", "xformers", "lightning", "av"):
        try:
            print(f"  {name} {version(name)}")
        except PackageNotFoundError:
            print(f"  {name} is not installed")
    devices = [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]
    for device in devices:
        cuda = device.type == "cuda"
        dtype = choose_dtype("auto", device)
        print(
            f"\n{torch.cuda.get_device_name(device) if cuda else f'CPU, {torch.get_num_threads()} threads'} ({device})"
        )
        for packed, title in ((False, "block-sparse attention"), (True, "packed attention")):
            for training in (False, True):
                purpose = "training" if training else "inference"
                chosen, why = choose_impl(device, dtype, 128, training, packed=packed)
                print(f"  {title}, {purpose} in {str(dtype).removeprefix('torch.')}: auto takes {chosen} ({why})")
                for name, reason in explain_impls(device, dtype, 128, training, packed=packed).items():
                    print(f"    {name:<12} {'runs' if reason is None else 'cannot run: ' + reason}")
        print(f"  kernels in {str(dtype).removeprefix('torch.')} inference; plain PyTorch runs where one cannot")
        if cuda:
            print(f"    {proof(device)}")
        for name in KERNELS:
            runs, reason = available(name, device, dtype)
            can = f"runs ({reason})" if name in NO_GPU_YET else "runs"
            print(f"    {name:<18} {can if runs else 'cannot run: ' + reason}")
    return 0
