from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch.autograd import DeviceType

from benchmarks.encode_sides import profile_call
from benchmarks.profiles import counts_on_gpu, kind_of, profile_table, seconds_by_kind


def event(
    name: str, milliseconds: float, count: int = 1, on_gpu: bool = False, marked: bool = False
) -> SimpleNamespace:
    """As torch averages them: an operator's own time is on the CPU, a kernel's on the GPU."""
    own, other = (0.0, 1e3 * milliseconds) if on_gpu else (1e3 * milliseconds, 7e6)
    return SimpleNamespace(
        key=name, count=count, device_type=DeviceType.CUDA if on_gpu else DeviceType.CPU, is_user_annotation=marked,
        self_cpu_time_total=own, self_device_time_total=other,
    )  # fmt: skip


EVENTS = [
    event("aten::mm", 30, 4), event("aten::bmm", 10), event("aten::mul", 60, 3), event("cudaLaunchKernel", 5, 14),
    event("cudaStreamSynchronize", 2, 3), event("cudaDeviceSynchronize", 1), event("cudaMemcpyAsync", 1, 5),
    event("nvjet_tst_192x192_64x3_2x1_v_bz_coopB_NNT", 8, 4, on_gpu=True),
    event("void at::native::vectorized_elementwise_kernel<4>", 2, 10, on_gpu=True),
    event("Memcpy DtoH (Device -> Pageable)", 1, 2, on_gpu=True),
    event("Memcpy HtoD (Pinned -> Device)", 1, 3, on_gpu=True), event("Memset (Device)", 1, 6, on_gpu=True),
    event("ProfilerStep#3", 500, on_gpu=True, marked=True),
]  # fmt: skip


def test_names_of_operators_and_kernels_are_sorted_into_kinds() -> None:
    kinds = {
        "aten::mm": "matmul",
        "mkldnn::_linear_pointwise": "matmul",
        "aten::mul": "elementwise",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
        "torch_attn::_varlen_attn": "attention",
        "void pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<cutlass::bfloat16_t>": "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_7": "attention",
        "nvjet_tst_192x192_64x3_2x1_v_bz_coopB_NNT": "matmul",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64": "matmul",
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<FusedAdamMathFunctor<float>>": "optimizer",
        "aten::_fused_adamw_": "optimizer",
        "void at::native::vectorized_layer_norm_kernel<float, float>": "norm, softmax and loss",
        "aten::_log_softmax_backward_data": "norm, softmax and loss",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>": "elementwise",
        "triton_poi_fused_mul_silu_2": "elementwise",
        "aten::copy_": "copies",
        "Memcpy HtoD (Pinned -> Device)": "copies",
        "aten::index": "embedding and indexing",
        "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__": "data",
        "cudaLaunchKernel": "rest",
    }
    assert {name: kind_of(name) for name in kinds} == kinds


def test_seconds_are_summed_by_kind_and_the_rest_is_what_they_leave() -> None:
    on_cpu = seconds_by_kind(EVENTS, torch.device("cpu"), 2, 0.08)
    assert {kind: round(seconds, 6) for kind, seconds in on_cpu.items()} == {
        "elementwise": 0.03, "matmul": 0.02, "copies": 0.0005, "rest": 0.0295,
    }  # fmt: skip
    on_gpu = seconds_by_kind(EVENTS, torch.device("cuda"), 1, 0.02)
    assert {kind: round(seconds, 6) for kind, seconds in on_gpu.items()} == {
        "matmul": 0.008, "copies": 0.003, "elementwise": 0.002, "rest": 0.007,
    }  # fmt: skip
    assert list(on_cpu)[-1] == list(on_gpu)[-1] == "rest"
    assert seconds_by_kind(EVENTS, torch.device("cuda"), 1, 0.001)["rest"] == 0.0


def test_kernels_copies_to_the_host_and_waits_are_counted() -> None:
    assert counts_on_gpu(EVENTS) == {
        "kernels launched": 14, "copies from the GPU to the host": 2, "waits of the host for the GPU": 4,
    }  # fmt: skip


def test_a_call_is_profiled_on_this_machine() -> None:
    """Products that take nearly all of the time must be found to."""
    torch.set_num_threads(1)
    matrix, calls = torch.randn(700, 700), []

    def encode(texts: Sequence[str], batch_size: int | None) -> np.ndarray:
        calls.append((texts, batch_size))
        for _ in range(10):
            matrix @ matrix
        return np.zeros(1)

    found = profile_call(encode, ["a", "b"], 8, "cpu")
    assert calls == [(["a", "b"], 8)] * 2 and found["counts"] == {}
    assert found["profile"]["matmul"] > 0.8 * sum(found["profile"].values()) > 0.8 * found["profile"]["matmul"]


def test_the_table_has_a_column_a_side_and_counts_below_the_kinds() -> None:
    profiles = {"ours": {"matmul": 0.003, "rest": 0.001}, "theirs": {"attention": 0.002}, "onnx": {}}
    heading, table = profile_table("A call:", profiles, {"ours": {"kernels launched": 1234}})
    assert heading == "A call:" and table.splitlines() == [
        "| kind of work | ours | theirs |",
        "| --- | ---: | ---: |",
        "| matmul | 3.0 (75%) | 0.0 (0%) |",
        "| attention | 0.0 (0%) | 2.0 (100%) |",
        "| rest | 1.0 (25%) | 0.0 (0%) |",
        "| kernels launched | 1,234 | - |",
    ]
    assert profile_table("A call:", {"onnx": {}}) == []
