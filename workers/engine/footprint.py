"""How much memory this engine process has taken at most."""

import resource

import torch


def peak_bytes(device: torch.device) -> int:
    """Device memory reserved at most, or resident memory on a CPU."""
    if device.type == "cuda":
        devices = range(torch.cuda.device_count())
        return sum(torch.cuda.max_memory_reserved(one) for one in devices)
    # Linux counts the peak in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
