import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file
from torch import nn
from torch.profiler import profile

from nomic_bert import (
    NomicBertForMaskedLM,
    NomicBertModel,
    attention_nomic_bert,
    layers_nomic_bert,
    unpadding_nomic_bert,
)
from nomic_bert.cpu_nomic_bert import linear_map
from tests.tensors import assert_close, pad

FIXTURES = ("upstream_tiny_ntk", "upstream_tiny_unscaled")


@pytest.fixture(params=FIXTURES)
def upstream(request, fixtures_dir):
    """Weights with the outputs of the authors' model."""
    directory = fixtures_dir / request.param
    return directory, load_file(directory / "expected.safetensors")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_outputs_are_the_authors(upstream, attention):
    directory, expected = upstream
    model = NomicBertForMaskedLM.from_pretrained(directory, attn_implementation=attention).eval()
    ids, mask = expected["padded.input_ids"], expected["padded.attention_mask"]
    real = mask.bool()
    assert_close(model.bert(ids, mask).last_hidden_state[real], expected["padded.last_hidden_state"][real])
    assert_close(model(ids, attention_mask=mask).logits[real], expected["padded.mlm_logits"][real])
    typed = model.bert(ids, mask, token_type_ids=expected["token_type_ids"]).last_hidden_state
    assert_close(typed[real], expected["padded.token_type.last_hidden_state"][real])
    for length in (64, 65, 128, 253):
        found = model.bert(expected[f"long{length}.input_ids"]).last_hidden_state
        assert_close(found, expected[f"long{length}.last_hidden_state"])


@torch.no_grad()
def test_equal_to_native_transformers_within_the_trained_length(tiny_model, texts, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    for text in texts[:3]:
        native = transformers.models.nomic_bert.NomicBertModel.from_pretrained(tmp_path).eval()
        assert_close(tiny_model(text[None]).last_hidden_state, native(text[None]).last_hidden_state)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_a_text_is_encoded_alike_in_any_company(tiny_model, texts, attention):
    """Alone = in a batch = padded further = left-padded = packed = after any history, within 1e-5."""
    tiny_model.set_attn_implementation(attention)
    alone = [tiny_model(text[None]).last_hidden_state[0] for text in texts]
    cu_seq_lens = torch.tensor([0, *torch.tensor([len(text) for text in texts]).cumsum(0)])
    ways = {
        "batch": pad(texts),
        "padded further": pad(texts, width=301),
        "left": pad(texts, left=True),
        "reversed": pad(texts[::-1]),
    }
    for name, (ids, mask) in ways.items():
        hidden = tiny_model(ids, mask).last_hidden_state
        assert not hidden[mask == 0].any(), f"{name}: padding is not zero"
        rows = [row[real.bool()] for row, real in zip(hidden, mask, strict=True)]
        for found, expected in zip(rows[::-1] if name == "reversed" else rows, alone, strict=True):
            assert_close(found, expected)
    row = torch.cat(texts)[None]
    restarting = torch.cat([torch.arange(len(text)) for text in texts])[None]
    for packed in ({"cu_seq_lens_q": cu_seq_lens}, {"position_ids": restarting}):
        assert_close(tiny_model(row, **packed).last_hidden_state[0], torch.cat(alone))
    for text, expected in zip(texts, alone, strict=True):  # after all of the above
        assert_close(tiny_model(text[None]).last_hidden_state[0], expected)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch's own products are not MKL's")
@pytest.mark.parametrize("shape", [(1, 16, 256), (1, 0, 256), (3, 5, 256), (700, 256)])
def test_linear_maps_are_computed_by_onednn_where_nothing_is_trained(shape):
    linear = nn.Linear(256, 288, bias=False).eval()
    hidden = torch.randn(shape)
    expected = F.linear(hidden.double(), linear.weight.double()).float()

    def products(grad, **changes):
        with torch.set_grad_enabled(grad), profile() as profiler:
            found = linear_map(linear, hidden.to(changes.get("dtype", torch.float32)))
        assert_close(found.float(), expected, tolerance=2e-2 if changes else 1e-5)
        return {event.key for event in profiler.key_averages()} & {"aten::linear", "mkldnn::_linear_pointwise"}

    assert products(grad=False) == {"mkldnn::_linear_pointwise"}
    assert products(grad=True) == {"aten::linear"}
    hooks = [linear.register_forward_pre_hook(lambda *_: None), linear.register_forward_hook(lambda *_: None)]
    for hook in hooks:  # a hooked module is called
        assert products(grad=False) == {"aten::linear"}
        hook.remove()
    with torch.backends.mkldnn.flags(enabled=False):  # the user's own switch
        assert products(grad=False) == {"aten::linear"}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products(grad=False, autocast=True) == {"aten::linear"}
    linear.train()  # both passes of GradCache by the same kernel
    assert products(grad=False) == {"aten::linear"}
    linear.eval().bfloat16()
    assert products(grad=False, dtype=torch.bfloat16) == {"aten::linear"}
    linear, hidden = nn.Linear(64, 96, bias=False).eval(), hidden[..., :64]
    expected = F.linear(hidden.double(), linear.weight.double()).float()
    assert products(grad=False) == {"aten::linear"}, "too small to be worth it"


@torch.no_grad()
def test_a_cpu_computes_a_large_row_in_parts_that_change_nothing(tiny_model, texts, monkeypatch):
    ids, mask = pad(texts)
    whole = tiny_model(ids, mask, output_hidden_states=True)
    rows = []
    tiny_model.encoder.layers[0].register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    maps = []
    tiny_model.encoder.layers[0].mlp.fc2.register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0].shape[1]))
    monkeypatch.setattr(layers_nomic_bert, "CPU_ROW", 70)
    monkeypatch.setattr(layers_nomic_bert, "CPU_CHUNK", 50)
    assert_close(tiny_model(ids, mask).last_hidden_state, whole.last_hidden_state)
    assert sum(rows) == sum(maps) == mask.sum() and len(rows) > 1 and max(maps) <= 50
    lengths = [len(text) for text in texts]
    assert all(row <= 70 or row in lengths for row in rows), "whole sequences"
    rows.clear()
    states = tiny_model(ids, mask, output_hidden_states=True).hidden_states
    for found, expected in zip(states, whole.hidden_states, strict=True):
        assert_close(found, expected)
    tiny_model.train()(ids, mask)
    with torch.enable_grad():
        tiny_model.eval()(ids, mask)
    assert rows == [mask.sum()] * 3, "whole, where states are kept, and in training"


@torch.no_grad()
def test_scaling_matters_beyond_the_trained_length_only(tiny_model, texts):
    before = [tiny_model(text[None]).last_hidden_state for text in texts]
    tiny_model.config.rotary_scaling_factor = None
    for text, scaled in zip(texts, before, strict=True):
        change = (tiny_model(text[None]).last_hidden_state - scaled).abs().max()
        assert (change > 1e-3) == (len(text) > tiny_model.config.max_trained_positions)


def test_gradients_of_packed_and_padded_are_equal(tiny_model, texts):
    ids, mask = pad(texts)

    def gradients(attention, hidden_of):
        tiny_model.set_attn_implementation(attention)
        tiny_model.zero_grad()
        weights = torch.linspace(-1, 1, tiny_model.config.hidden_size)
        (hidden_of() * weights).square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in tiny_model.named_parameters()}

    row, cu = torch.cat(texts)[None], torch.tensor([0, *torch.tensor([len(t) for t in texts]).cumsum(0)])
    reference = gradients("eager", lambda: tiny_model(ids, mask).last_hidden_state[mask == 1])
    for hidden_of in (
        lambda: tiny_model(ids, mask).last_hidden_state[mask == 1],
        lambda: tiny_model(row, cu_seq_lens_q=cu).last_hidden_state[0],
    ):
        for name, gradient in gradients("sdpa", hidden_of).items():
            scale = reference[name].abs().max()
            assert_close(gradient / scale, reference[name] / scale)


@torch.no_grad()
def test_standard_inputs_and_outputs(tiny_model, texts):
    ids, mask = pad(texts[:3])
    plain = tiny_model(ids, mask)
    assert_close(tiny_model(inputs_embeds=tiny_model.embeddings.word_embeddings(ids), attention_mask=mask)[0], plain[0])
    shifted = torch.arange(ids.shape[1])[None] + 7  # RoPE is relative
    assert_close(tiny_model(ids, mask, position_ids=shifted)[0], plain[0], 1e-4)
    stretched = torch.arange(ids.shape[1])[None] * 2
    assert not torch.allclose(tiny_model(ids, mask, position_ids=stretched)[0], plain[0], atol=1e-2)
    assert isinstance(tiny_model(ids, mask, return_dict=False), tuple)
    states = tiny_model(ids, mask, output_hidden_states=True).hidden_states
    assert len(states) == tiny_model.config.num_hidden_layers + 1
    assert_close(states[-1], plain[0])
    attentions = tiny_model(ids, mask, output_attentions=True).attentions  # SDPA has none, so eager attention runs
    tiny_model.set_attn_implementation("eager")
    assert_close(tiny_model(ids, mask, output_attentions=True).attentions, attentions)
    assert attentions[0].shape == (3, 4, ids.shape[1], ids.shape[1])
    assert_close(attentions[1].sum(-1)[mask[:, None].expand(3, 4, -1) == 1], torch.ones(4 * mask.sum()))
    assert not attentions[0][0, :, :, 3:].any(), "attention to padding"


@torch.no_grad()
def test_a_text_without_tokens_is_zero_not_nan(tiny_model):
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 10]]), torch.tensor([[1, 1, 0], [0, 0, 0]])
    for attention in ("sdpa", "eager"):
        tiny_model.set_attn_implementation(attention)
        hidden = tiny_model(ids, mask).last_hidden_state
        assert hidden.isfinite().all() and not hidden[1].any() and hidden[0, :2].any()


def test_gradient_checkpointing_changes_nothing(tiny_model, texts):
    ids, mask = pad(texts)
    gradients = []
    tiny_model.train()
    for checkpointing in (False, True):
        if checkpointing:
            tiny_model.gradient_checkpointing_enable()
        tiny_model.zero_grad()
        tiny_model(ids, mask).last_hidden_state.square().mean().backward()
        gradients.append(tiny_model.encoder.layers[0].attn.Wqkv.weight.grad.clone())
    assert_close(*gradients, 1e-7)


@torch.no_grad()
def test_export_takes_the_padded_path_and_agrees(tiny_model, texts):
    ids, mask = pad(texts[:2])
    automatic = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    exported = torch.export.export(
        tiny_model, (ids, mask), dynamic_shapes={"input_ids": automatic, "attention_mask": automatic}
    ).module()
    longer = pad(texts, width=150)
    assert_close(exported(*longer)[0], tiny_model(*longer)[0])


def test_too_long_a_text_warns_once_and_stays_finite(tiny_model, monkeypatch):
    said = []
    monkeypatch.setattr("nomic_bert.rotary_nomic_bert.logger.warning_once", said.append)
    within, beyond = torch.full((1, 256), 7), torch.full((1, 300), 7)
    tiny_model(within)
    assert not said
    assert tiny_model(beyond).last_hidden_state.isfinite().all()
    assert "256" in said[0]
    tiny_model.config.rotary_scaling_factor = None
    tiny_model(torch.full((1, 65), 7))
    tiny_model(torch.full((1, 66), 7))
    assert "rotary_scaling_factor=2" in said[1] and said[1] == said[2], "one message, so that it is shown once"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("way", ["padded", "left", "packed"])
def test_returned_states_lie_on_the_way_to_the_output(tiny_model, texts, attention, way):
    """A change of a state that is returned changes what follows, so its gradient is kept; and nothing else changes."""
    tiny_model.set_attn_implementation(attention)
    ids, mask = pad(texts, left=way == "left")
    inputs = {"input_ids": ids, "attention_mask": mask}
    if way == "packed":
        offsets = torch.tensor([0, *torch.tensor([len(text) for text in texts]).cumsum(0)])
        inputs = {"input_ids": torch.cat(texts)[None], "cu_seq_lens_q": offsets}
    output = tiny_model(**inputs, output_hidden_states=True)
    assert torch.equal(output.last_hidden_state, tiny_model(**inputs).last_hidden_state)
    assert output.hidden_states[-1] is output.last_hidden_state
    for state in output.hidden_states:
        state.retain_grad()
    output.last_hidden_state.square().sum().backward()
    real = torch.ones_like(inputs["input_ids"]) if way == "packed" else mask
    for state in output.hidden_states:
        assert state.grad[real == 1].abs().sum(-1).min() > 0


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dropout_is_what_the_modules_say(tiny_config, texts, attention):
    tiny_config.attention_probs_dropout_prob = tiny_config.hidden_dropout_prob = 0.5
    model = NomicBertModel(tiny_config).train()
    model.set_attn_implementation(attention)
    ids, mask = pad(texts)
    assert not torch.equal(model(ids, mask)[0], model(ids, mask)[0])
    expected = model.eval()(ids, mask)[0]
    for module in model.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert_close(model(ids, mask)[0], expected)
    model.encoder.layers[0].attn.drop.p = 0.5
    assert not torch.equal(model(ids, mask)[0], model(ids, mask)[0])


def test_linear_maps_are_plain_modules_that_quantization_finds(tiny_model, texts):
    kinds = {type(module) for name, module in tiny_model.named_modules() if name.endswith(("Wqkv", "proj", "1", "2"))}
    assert kinds <= {nn.Linear, layers_nomic_bert.NomicBertLayer, nn.LayerNorm}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(tiny_model, {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        found, expected = (model(texts[1][None]).last_hidden_state for model in (quantized, tiny_model))
    assert not [module for module in quantized.modules() if type(module) is nn.Linear]
    assert torch.cosine_similarity(found.mean(1), expected.mean(1)).item() > 0.99


def test_varlen_takes_what_its_kernel_can(monkeypatch):
    """On a CPU: a stand-in for the kernel, meta tensors for those on a GPU."""
    monkeypatch.setattr(attention_nomic_bert, "varlen_attn", object())
    capability = [9, 0]
    monkeypatch.setattr(attention_nomic_bert, "_capability", lambda _: tuple(capability))

    def serves(head_dim=64, dtype=torch.bfloat16, dropout=0.0, texts=1):
        query = torch.empty(1, 5, 2, head_dim, dtype=dtype, device="meta")
        return attention_nomic_bert._varlen_serves(query, dropout, texts)

    assert serves() and serves(head_dim=256) and serves(dtype=torch.float16) and serves(texts=65_535)
    assert not serves(head_dim=512) and not serves(head_dim=4)
    assert not serves(texts=65_536) and not serves(dropout=0.1) and not serves(dtype=torch.float32)
    capability[:] = 7, 5
    assert not serves()


REAL_LENGTHS = [len(line.split()) for line in Path(__file__).read_text(encoding="utf-8").split("\n\n\n")]


@pytest.mark.parametrize("lengths", [sorted(REAL_LENGTHS, reverse=True), [9, 0, 1, 8, 8, 8, 7, 0], [3, 3, 3]])
def test_texts_of_unlike_lengths_share_attention_with_little_padding(tiny_model, monkeypatch, lengths):
    """As on a GPU where no kernel takes packed rows: the result of each text alone, few calls, little padding."""
    monkeypatch.setattr(unpadding_nomic_bert, "_SLACK_ON_CPU", unpadding_nomic_bert._SLACK)
    calls = []
    attend = F.scaled_dot_product_attention

    def counted(query, *others):
        calls.append(query.shape[0] * query.shape[2])
        return attend(query, *others)

    texts = [torch.randint(5, 500, (length,)) for length in lengths if length]
    offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
    expected = torch.cat([tiny_model(text[None]).last_hidden_state for text in texts], dim=1)
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    row = torch.cat(texts)[None]
    found = tiny_model(row, cu_seq_lens_q=offsets).last_hidden_state
    assert_close(found, expected)
    layers = tiny_model.config.num_hidden_layers
    assert sum(lengths) <= sum(calls) / layers <= 1.25 * sum(lengths)
    assert len(calls) / layers <= max(4, len(lengths) / 3)
    weights = torch.randn_like(found)  # squares of normalized vectors would have no gradient
    (found * weights).sum().backward()
    gradient = tiny_model.embeddings.word_embeddings.weight.grad.clone()
    tiny_model.zero_grad()
    (expected * weights).sum().backward()
    expected_gradient = tiny_model.embeddings.word_embeddings.weight.grad
    assert_close(gradient / expected_gradient.norm(), expected_gradient / expected_gradient.norm(), 1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", ["flash_attention_2", "kernels-community/flash-attn2", "org/name@v1:function"])
def test_a_flash_kernel_by_any_name_gets_packed_rows(tiny_model, texts, monkeypatch, name):
    calls = []

    def kernel(module, query, key, value, attention_mask, cu_seq_lens_q, cu_seq_lens_k, **settings):
        calls.append((attention_mask, tuple(query.shape), settings["max_length_q"]))
        ends = zip(cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist()[1:], strict=False)
        rows = [F.scaled_dot_product_attention(*(x[:, :, a:b] for x in (query, key, value))) for a, b in ends]
        return torch.cat(rows, dim=2).transpose(1, 2), None

    ids, mask = pad(texts)
    expected = tiny_model(ids, mask).last_hidden_state
    monkeypatch.setitem(attention_nomic_bert.ALL_ATTENTION_FUNCTIONS, name, kernel)
    tiny_model.config._attn_implementation_internal = name
    assert_close(tiny_model(ids, mask).last_hidden_state, expected)
    assert calls[0] == (None, (1, 4, mask.sum(), 16), 130) and len(calls) == 2


def test_inputs_that_contradict_each_other_are_refused(tiny_model):
    ids = torch.full((2, 8), 7)
    with pytest.raises(ValueError, match="exactly one"):
        tiny_model(ids, inputs_embeds=torch.zeros(2, 8, 64))
    with pytest.raises(ValueError, match="exactly one"):
        tiny_model()
    with pytest.raises(ValueError, match=r"input_ids must be \(batch, tokens\).*got \(8,\)"):
        tiny_model(ids[0])
    with pytest.raises(ValueError, match=r"inputs_embeds \(batch, tokens, hidden\); got \(8, 64\)"):
        tiny_model(inputs_embeds=torch.zeros(8, 64))
    with pytest.raises(ValueError, match="attention_mask"):
        tiny_model(ids, torch.ones(2, 1, 8, 8))
    with pytest.raises(ValueError, match="cu_seq_lens_q"):
        tiny_model(ids[:1], cu_seq_lens_q=torch.tensor([0, 5, 7]))
    with pytest.raises(ValueError, match="one packed row"):
        tiny_model(ids, cu_seq_lens_q=torch.tensor([0, 8]))
    with pytest.raises(ValueError, match="head_mask"):
        tiny_model(ids, head_mask=torch.ones(2, 4))
    with pytest.raises(TypeError, match="past_key_values"):
        tiny_model(ids, past_key_values=None)
    assert torch.equal(tiny_model(ids, use_cache=True)[0], tiny_model(ids)[0])
    assert torch.equal(tiny_model(ids[:1], cu_seq_lens_q=[0, 8])[0], tiny_model(ids[:1])[0])


def test_the_137m_model_is_built_saved_and_reloaded(tmp_path):
    from nomic_bert import NomicBertConfig

    model = NomicBertModel(NomicBertConfig()).eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == 136_731_648
    assert len(model.state_dict()) == 112
    model.save_pretrained(tmp_path)
    assert len(load_file(tmp_path / "model.safetensors")) == 112
    ids = torch.arange(100, 164).view(2, 32)
    with torch.no_grad():
        assert torch.equal(NomicBertModel.from_pretrained(tmp_path).eval()(ids)[0], model(ids)[0])


@pytest.mark.gpu
@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gpu_agrees_with_the_cpu_reference(tiny_model, texts, dtype):
    ids, mask = pad(texts)
    reference = tiny_model(ids, mask).last_hidden_state
    found = tiny_model.to("cuda", dtype)(ids.cuda(), mask.cuda()).last_hidden_state.float().cpu()
    error = (found - reference)[mask == 1].norm() / reference[mask == 1].norm()
    assert error < (2e-2 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.gpu
@torch.no_grad()
def test_a_gpu_is_waited_for_once_for_a_padded_batch_and_never_for_a_packed_row(tiny_model, texts):
    model = tiny_model.to("cuda", torch.bfloat16)
    ids, mask = (tensor.cuda() for tensor in pad(texts))
    row = torch.cat(texts)[None].cuda()
    offsets = torch.tensor([0, *torch.tensor([len(text) for text in texts]).cumsum(0)], dtype=torch.int32)
    for inputs, waits in (
        ({"input_ids": ids, "attention_mask": mask}, 1),
        ({"input_ids": row, "cu_seq_lens_q": offsets}, 0),
    ):
        model(**inputs)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                model(**inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len([each for each in found if "synchroniz" in str(each.message)]) == waits


@pytest.mark.gpu
def test_gpu_packed_gradients_agree_with_the_cpu_reference(tiny_model, texts):
    row = torch.cat(texts)[None]
    cu = torch.tensor([0, *torch.tensor([len(text) for text in texts]).cumsum(0)], dtype=torch.int32)
    gradients = []
    for device in ("cpu", "cuda"):
        tiny_model.to(device).zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            tiny_model(row.to(device), cu_seq_lens_q=cu.to(device)).last_hidden_state.square().mean().backward()
        gradients.append(tiny_model.encoder.layers[0].attn.Wqkv.weight.grad.cpu().clone())
    assert (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 5e-2
