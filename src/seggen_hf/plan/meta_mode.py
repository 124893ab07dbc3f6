"""Modules on the meta device behave as on a GPU: autocast, fused attention, values that nobody can look at."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# What torch.autocast does on CUDA (https://docs.pytorch.org/docs/stable/amp.html, "CUDA Ops that can autocast"), as
# far as the networks here use it. The meta device has no autocast of its own.
_NN: Any = torch._C._nn  # pyright: ignore[reportAttributeAccessIssue]  # torch does not declare it
_TO_HALF = {
    _NN.linear, torch.conv1d, torch.conv2d, torch.conv_transpose2d, torch.matmul, torch.mm, torch.bmm,
    torch.addmm, torch.baddbmm, torch.einsum, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.mm,
    torch.Tensor.bmm,
}  # fmt: skip
_TO_FLOAT32 = {
    torch.layer_norm, torch.group_norm, torch.softmax, torch.Tensor.softmax, torch.log_softmax,
    torch.Tensor.log_softmax, _NN.cross_entropy_loss, _NN.softplus, torch.exp, torch.Tensor.exp,
    torch.log, torch.Tensor.log, torch.pow, torch.Tensor.pow, torch.sum, torch.Tensor.sum, torch.cumsum,
    torch.Tensor.cumsum, torch.norm, torch.Tensor.norm,
}  # fmt: skip
_ASKED = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


class MetaMode(TorchFunctionMode):
    """Within the block meta tensors are cast as autocast would on CUDA, and a question about values is answered yes.

    Args:
        dtype (`torch.dtype`): autocast's half precision; None leaves all tensors as they are.
    """

    def __init__(self, dtype: torch.dtype | None = None):
        super().__init__()
        self.dtype = dtype
        self._casts: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = {}

    def cast(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`tensor` in `dtype`; trained float32 weights once for the whole forward pass, as autocast keeps them."""
        if tensor.dtype == dtype or not tensor.is_floating_point() or not tensor.is_meta:
            return tensor
        is_kept = tensor.is_leaf and tensor.requires_grad and tensor.dtype == torch.float32 and dtype == self.dtype
        if not is_kept or self._casts is None:
            return tensor.to(dtype)
        if id(tensor) not in self._casts:
            self._casts[id(tensor)] = (tensor, tensor.to(dtype))
        return self._casts[id(tensor)][1]

    def _cast_all(self, value, dtype: torch.dtype):
        """An argument: a tensor, a list of them (einsum's), or something else."""
        if isinstance(value, torch.Tensor):
            return self.cast(value, dtype)
        if isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
            return [self._cast_all(item, dtype) for item in value]
        return value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True
        if self.dtype is not None and (func in _TO_HALF or func in _TO_FLOAT32):
            dtype = self.dtype if func in _TO_HALF else torch.float32
            args = [self._cast_all(value, dtype) for value in args]
            kwargs = {name: self._cast_all(value, dtype) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """The forward pass, at whose end autocast lets its casts of the weights go."""
        with _as_on_cuda(self), self:
            yield
        self._casts = {}

    def backward(self, loss: torch.Tensor) -> None:
        """The backward pass; what gradient checkpointing computes anew is cast anew, and let go at once."""
        self._casts = None
        with _as_on_cuda(self), self:
            torch.autograd.graph._engine_run_backward(  # `backward` would leave this mode before it begins
                (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
            )
        self._casts = {}

    @contextlib.contextmanager
    def autocast(self, device_type: str, dtype=None, enabled: bool = True, cache_enabled=None) -> Iterator[None]:
        """What stands for `torch.autocast`, which knows no meta device."""
        before = self.dtype
        self.dtype = (dtype or before) if enabled else None
        try:
            yield
        finally:
            self.dtype = before


@contextlib.contextmanager
def _as_on_cuda(mode: MetaMode) -> Iterator[None]:
    """Attention keeps its inputs and its output, never the attention matrix; functions in Python run to their parts,
    which `mode` then sees."""

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if mode.dtype is not None:
            query, key, value = (mode.cast(tensor, mode.dtype) for tensor in (query, key, value))
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scale)[0]

    replaced = [(F, "scaled_dot_product_attention", attention), (torch, "autocast", mode.autocast)]
    replaced += [(F, name, lambda *tensors: False) for name in _ASKED]
    originals = [(place, name, getattr(place, name)) for place, name, _ in replaced]
    for place, name, function in replaced:
        setattr(place, name, function)
    try:
        yield
    finally:
        for place, name, function in originals:
            setattr(place, name, function)
