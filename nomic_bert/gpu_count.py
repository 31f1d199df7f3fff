"""What a pass takes on a GPU, counted on any machine: peak memory, kernels, bytes read and written, FLOPs.

Tensors are on torch's meta device, which has shapes and no numbers: without CUDA, fake tensors "on cuda" have no
gradient. What a GPU does differently is therefore said here: the rules of autocast, and the attention kernels with the
memory that they take inside.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from . import attention_nomic_bert
from .attention_nomic_bert import varlen_attn
from .configuration_nomic_bert import NomicBertConfig
from .modeling_nomic_bert import NomicBertModel

META = torch.device("meta")
_aten = torch.ops.aten
# The functions of the model and of its losses that autocast knows on CUDA.
_IN_HALF = {F.linear, F.scaled_dot_product_attention, torch.matmul, Tensor.matmul, Tensor.__matmul__}
_IN_FULL = {F.layer_norm, F.normalize, F.cross_entropy, F.nll_loss, F.log_softmax, F.softmax}
_NO_KERNEL = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "lift_fresh")
_READS_ROWS = ("embedding", "index", "index_select", "gather")  # of their first argument what they give back
_BLOCK = 512  # bytes: what torch allocates on a GPU is a multiple
_QUERIES_APART = 128  # rows that FlashAttention 2 leaves between the sequences of its sums of query gradients


@dataclass
class GPUCount:
    """What was counted.

    Attributes:
        peak: bytes that torch has allocated at once, at most. The CUDA context, the libraries' workspaces, NCCL and
            what the allocator cannot use (fragments) come on top.
        held: bytes of what was there from the start.
        kernels: operators that run a kernel, without a compiler.
        moved: bytes that these read and write.
        flops: of matrix products and attention.
        tokens: that were computed on, each once.
    """

    peak: int = 0
    held: int = 0
    kernels: int = 0
    moved: int = 0
    flops: int = 0
    tokens: int = 0


@contextmanager
def counting_gpu(held: Iterable[Tensor], capability: tuple[int, int] = (9, 0)) -> Iterator[GPUCount]:
    """Count what is computed on meta tensors inside as a GPU would compute it; `torch.autocast("meta", dtype)` works.

    Args:
        held: tensors on the meta device that take memory from the start on, such as weights.
        capability: of the GPU: (8, 0) and later have the attention kernel for packed rows in half precision.
    """
    count = GPUCount()
    work = _Work(count)
    for tensor in held:
        work.take(tensor)
    count.held = count.peak
    with ExitStack() as stack:
        for owner, name, of_meta in _MISSING:
            stack.enter_context(mock.patch.object(owner, name, _also_of_meta(getattr(owner, name), of_meta)))
        stack.enter_context(mock.patch.object(attention_nomic_bert, "_capability", lambda _: capability))
        stack.enter_context(work)
        stack.enter_context(_GPUAttention())
        yield count


def count_encoding(
    config: NomicBertConfig, tokens: int, text_tokens: int, dtype: torch.dtype = torch.bfloat16
) -> GPUCount:
    """Count the embedding of a batch of texts by `encode_by_tokens`.

    Args:
        config: of the model.
        tokens: of the batch.
        text_tokens: of each text.
        dtype: of the weights.
    """
    with META:
        model = cast(Any, NomicBertModel(config)).to(dtype).eval()
        ids = torch.empty(1, tokens, dtype=torch.long)
    offsets = torch.arange(0, tokens + 1, text_tokens, dtype=torch.int32)
    with torch.no_grad(), counting_gpu([*model.parameters(), ids]) as count:
        model(input_ids=ids, cu_seq_lens_q=offsets).last_hidden_state.float()
    count.tokens = tokens
    return count


class _Autocast(TorchFunctionMode):
    """`torch.autocast` of CUDA for meta tensors: weights are cast once, and kept until it ends."""

    entered: ClassVar[list["_Autocast"]] = []

    def __init__(self, _: str, dtype: torch.dtype | None = None, enabled: bool = True, **__: Any) -> None:
        super().__init__()
        self.dtype = dtype if enabled else None
        self._weights: dict[int, Tensor] = {}

    def __enter__(self) -> "_Autocast":
        self.entered.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.entered.pop()
        self._weights.clear()
        super().__exit__(*error)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if self.dtype is not None and self.entered[-1] is self:
            if func in _IN_HALF:
                args = tree_map_only(Tensor, self._halved, args)
            elif func in _IN_FULL:
                args = tree_map_only(Tensor, lambda x: x.float() if x.is_floating_point() else x, args)
        return func(*args, **(kwargs or {}))

    def _halved(self, tensor: Tensor) -> Tensor:
        assert self.dtype is not None
        if tensor.dtype != torch.float32:
            return tensor
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(self.dtype)
        if id(tensor) not in self._weights:
            self._weights[id(tensor)] = tensor.to(self.dtype)
        return self._weights[id(tensor)]


def _is_autocast_enabled(_: str) -> bool:
    return bool(_Autocast.entered) and _Autocast.entered[-1].dtype is not None


def _no_random_numbers(_: Any) -> SimpleNamespace:
    return SimpleNamespace(get_rng_state=lambda *_: None, set_rng_state=lambda *_: None)


# What torch does not have for the meta device.
_MISSING: list[tuple[Any, str, Callable]] = [
    (torch, "autocast", _Autocast),
    (torch, "is_autocast_enabled", _is_autocast_enabled),
    (torch, "get_autocast_dtype", lambda _: _Autocast.entered[-1].dtype),
    (torch, "get_device_module", _no_random_numbers),
]


def _also_of_meta(original: Callable, of_meta: Callable) -> Callable:
    def chosen(device: Any = None, *args: Any, **kwargs: Any) -> Any:
        if device is not None and str(device) == "meta":
            return of_meta("meta", *args, **kwargs)
        return original(*([] if device is None else [device]), *args, **kwargs)

    return chosen


class _GPUAttention(TorchFunctionMode):
    """SDPA by the kernel that a GPU takes where the varlen kernel does not serve, with and without a mask."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention and args[0].device == META:
            query, key, value, mask, dropout = (*args, None, 0.0)[:5]
            bias = None
            if mask is not None:
                shape = (*query.shape[:3], key.shape[2])
                bias = query.new_empty(mask.shape).expand(shape)
            keep = query.requires_grad or key.requires_grad or value.requires_grad
            return _aten._scaled_dot_product_efficient_attention(query, key, value, bias, keep, dropout)[0]
        return func(*args, **(kwargs or {}))


class _Work(TorchDispatchMode):
    """Counts operators and the storages of their results.

    torch's own MemTracker does not take a module that is called twice, as GradCache does.
    """

    def __init__(self, count: GPUCount) -> None:
        super().__init__()
        self._count = count
        self._allocated = 0
        self._storages: dict[int, weakref.ref] = {}

    def take(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now until nothing holds it."""
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._storages or tensor.device != META:
            return
        size = -(-storage.nbytes() // _BLOCK) * _BLOCK

        def give_back(_: weakref.ref) -> None:
            self._allocated -= size
            del self._storages[key]

        self._storages[key] = weakref.ref(storage, give_back)
        self._allocated += size
        self._count.peak = max(self._count.peak, self._allocated)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        inside = _attention_workspace(func, args)
        result = func(*args, **kwargs)
        for leaf in tree_leaves([inside, result]):
            if isinstance(leaf, Tensor):
                self.take(leaf)
        self._add(func, args, result)
        return result

    def _add(self, func: Any, args: tuple, result: Any) -> None:
        name = func.overloadpacket.__name__
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.device == META]
        inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.device == META]
        if not outputs or name in _NO_KERNEL or (func.is_view and not func._schema.is_mutable):
            return
        if name in _READS_ROWS:
            inputs = inputs[1:] + outputs
        self._count.kernels += 1
        self._count.moved += sum(tensor.numel() * tensor.element_size() for tensor in inputs + outputs)
        self._count.flops += _flops(name, args, outputs[0])


def _flops(name: str, args: tuple, output: Tensor) -> int:
    """Of products of matrices, and of attention over sequences of equal lengths."""
    if name in ("mm", "bmm"):
        return 2 * output.numel() * args[0].shape[-1]
    if name == "_varlen_attn":
        return 4 * args[0].numel() * args[6]
    if name == "_varlen_attn_backward":
        return 10 * args[1].numel() * args[9]  # five products where the forward pass has two
    if name == "_scaled_dot_product_efficient_attention":
        return 4 * args[0].numel() * args[1].shape[2]
    if name == "_scaled_dot_product_efficient_attention_backward":
        return 10 * args[1].numel() * args[2].shape[2]
    return 0


def _attention_workspace(func: Any, args: tuple) -> list[Tensor]:
    """What FlashAttention 2 takes in its backward pass for sums in float32: query gradients, and a number a query.

    Its sequences lie 128 rows apart there, so that many short ones take more than few long ones.
    """
    if varlen_attn is None or func is not torch.ops.torch_attn._varlen_attn_backward.default:
        return []
    query, sequences = args[1], len(args[6]) - 1
    tokens, heads, head_dim = query.shape
    rows = tokens + _QUERIES_APART * sequences
    rounded = 32 * -(-head_dim // 32)
    return [torch.empty(rows, heads, size, dtype=torch.float32, device=META) for size in (1, rounded)]
