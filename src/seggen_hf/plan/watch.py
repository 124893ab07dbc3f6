"""What a block of work takes of the machine's memory."""

import gc
import threading

import psutil
import torch


class Watch:
    """Measures what lies between `start` and `stop`: bytes that torch allocated on a GPU, or the resident memory of
    the process on a CPU."""

    def __init__(self, device: torch.device, every: float = 0.005):
        self.device, self.every = device, every

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._done, self._process = threading.Event(), psutil.Process()
            self._peak = held_bytes(self.device)
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(self.every):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def stop(self) -> int:
        """Bytes at the worst moment since `start`."""
        synchronize(self.device)
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        self._done.set()
        self._thread.join()
        return self._peak


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def held_bytes(device: torch.device) -> int:
    """What the process holds: bytes that torch allocated on a GPU, or its resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return psutil.Process().memory_info().rss
