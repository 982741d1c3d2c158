"""Damaged and unsupported model folders are refused with a message that says what to do."""

import json
import shutil
import weakref
from pathlib import Path

import huggingface_hub
import pytest
import safetensors
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from stoker import LLM, SamplingParams
from stoker.errors import ConfigError, ModelError
from stoker.model import loader
from stoker.model.checkpoint import SafetensorsFolder
from stoker.model.families import spec_from_config
from stoker.quant.choose import Formats, choose_formats
from stoker.quant.floats import FloatFormat
from stoker.quant.rows8 import Fp8Rows

ONE = SamplingParams(max_tokens=2, temperature=0)


@pytest.fixture
def folder(checkpoint, tmp_path):
    """A copy of a good model folder, to be damaged."""
    copy = tmp_path / "model"
    shutil.copytree(checkpoint("qwen3").folder, copy)
    return copy


def edit_config(folder, **changes):
    path = folder / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v != "absent"}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": "absent", "model_type": "absent"},
            "names no architecture; add .*LlamaForCausalLM",
        ),
        ({"architectures": ["UnheardForCausalLM"]}, "'UnheardForCausalLM' is not supported.*Qwen3"),
        ({"hidden_size": "absent"}, "lacks the field 'hidden_size'"),
        ({"hidden_act": "relu6"}, "activation 'relu6' is not supported.*silu"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope type 'spiral'.*llama3"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoints are not supported"),
        (
            {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"quantised with gptq \(4 bits\).*use a float32, bfloat16 or float16 one",
        ),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised with fp8, and"),
        ({"architectures": "Qwen3ForCausalLM"}, "must be a list of names: 'Qwen3ForCausalLM'"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps in config.json must be a number, not '1e-6'"),
        ({"attention_bias": "no"}, "attention_bias .* must be true or false, not 'no'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings .* must be true or false, not 1"),
        ({"rope_scaling": "yarn"}, "rope_scaling in config.json must be an object, not 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "lacks the field 'factor'"),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0]}},
            "short_factor in config.json must be a list of 8 numbers",
        ),
        (
            {"rope_parameters": {"partial_rotary_factor": 0.95}},
            "a rotary embedding of 15 of a head's 16 numbers; .* even",
        ),
        ({"num_key_value_heads": 3}, "4 attention heads .* share 3 key-value heads"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers .* must be a whole number, not '4'"),
        ({"hidden_size": 0}, "hidden_size in config.json must be a whole number, not 0"),
        (
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention"]},
            "layer_types in config.json has 1 entries for 4 layers",
        ),
        (
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["chunked"] * 4},
            "layer type 'chunked' is not supported",
        ),
        ({"num_hidden_layers": 5}, r"lacks model.layers.4.*more"),
        ({"num_hidden_layers": 3}, r"no place for: model.layers.3"),
        ({"intermediate_size": 95}, "has shape .* where config.json implies"),
    ],
)
def test_unsuitable_config(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=message):
        LLM(str(folder))


def test_files_missing_or_damaged(folder):
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"model.safetensors is truncated or damaged"):
        LLM(str(folder))
    weights.unlink()
    with pytest.raises(ModelError, match="holds no safetensors weights; convert"):
        LLM(str(folder))
    index = {"weight_map": {"a": "model-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names model-00001.safetensors, which is missing"):
        LLM(str(folder))
    (folder / "model.safetensors.index.json").write_text('{"metadata": {}}')
    with pytest.raises(ModelError, match=r"index.json has no weight_map"):
        LLM(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        LLM(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json"):
        LLM(str(folder))


def test_a_tied_checkpoint_may_carry_its_head(folder):
    def add_head(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    before = LLM(str(folder)).generate([[1, 2, 3]], ONE)[0].outputs[0].token_ids
    edit_weights(folder, add_head)
    assert LLM(str(folder)).generate([[1, 2, 3]], ONE)[0].outputs[0].token_ids == before


def test_nan_weights_are_named_at_the_first_logits(folder):
    def spoil(tensors):
        tensors["model.layers.2.mlp.down_proj.weight"][3, 4] = float("nan")

    edit_weights(folder, spoil)
    for dtype in ("float32", "int8"):
        llm = LLM(str(folder), dtype=dtype)
        with pytest.raises(ModelError, match=r"layers.2.ffn.down.weight hold NaN"):
            llm.generate([[1, 2, 3]], ONE)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("OPTForCausalLM", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm=True"),
        ("Gemma2ForCausalLM", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("Gemma3ForCausalLM", {"attn_logit_softcapping": 9.0}, "attn_logit_softcapping=9.0"),
    ],
)
def test_what_a_family_does_not_do(folder, architecture, changes, message):
    edit_config(folder, architectures=[architecture], **changes)
    with pytest.raises(ModelError, match=message):
        LLM(str(folder))


def test_tensors_of_quantised_checkpoints(folder):
    def pack(tensors):
        name = "model.layers.1.mlp.down_proj.weight"
        tensors[name] = tensors[name].to(torch.int8)

    edit_weights(folder, pack)
    with pytest.raises(ModelError, match=r"layers.1.mlp.down_proj.weight holds int8"):
        LLM(str(folder))


def test_an_adapter_is_no_model(folder):
    (folder / "config.json").unlink()
    adapter = {"base_model_name_or_path": "owner/base", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    with pytest.raises(ModelError, match=r"adapter .*base_model_name_or_path: 'owner/base'.*merge"):
        LLM(str(folder))


def test_names_without_the_base(folder):
    """Some checkpoints were saved from the model without its head."""

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    expected = LLM(str(folder)).generate([[1, 2, 3]], ONE)[0].outputs[0].token_ids
    edit_weights(folder, strip)
    assert LLM(str(folder)).generate([[1, 2, 3]], ONE)[0].outputs[0].token_ids == expected


def test_overflow_names_the_layer(folder):
    def spoil(tensors):
        tensors["model.layers.1.mlp.down_proj.weight"].fill_(1e38)

    edit_weights(folder, spoil)
    with pytest.raises(ModelError, match=r"output of layers.1 is not finite"):
        LLM(str(folder)).generate([[1, 2, 3]], ONE)


def test_a_request_that_met_nan_does_not_spoil_the_next(checkpoint, tmp_path):
    folder = tmp_path / "untied"
    shutil.copytree(checkpoint("llama").folder, folder)

    def spoil(tensors):
        tensors["model.embed_tokens.weight"][7] = float("nan")

    edit_weights(folder, spoil)
    llm = LLM(str(folder), dtype="bfloat16", max_batch_tokens=64)
    with pytest.raises(ModelError, match="hold NaN"):
        llm.generate([[7] * 40], ONE)
    assert len(llm.generate([[1, 2, 3]], ONE)[0].outputs[0].token_ids) == 2


def test_missing_tokenizer(folder):
    llm = LLM(str(folder))
    assert len(llm.generate([[1, 2, 3]], ONE)[0].outputs[0].token_ids) == 2
    with pytest.raises(ModelError, match=r"has no tokenizer.*pass prompts as token ids"):
        llm.generate("hello", ONE)


def test_models_that_are_nowhere(monkeypatch):
    with pytest.raises(ModelError, match=r"no folder './nothing'.*stoker-tiny"):
        LLM("./nothing")

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ModelError, match="hub cannot be reached; go online once"):
        LLM("owner/name")


def test_devices_and_sizes_are_checked(folder):
    with pytest.raises(ConfigError, match="device 'abacus' is not known"):
        LLM(str(folder), device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device 'cuda' was asked for, but"):
            LLM(str(folder), device="cuda")
    with pytest.raises(ConfigError, match="more than the model's 512"):
        LLM(str(folder), max_context=513)
    with pytest.raises(ConfigError, match="do not hold one block"):
        LLM(str(folder), cache_memory=10)


def test_wrapped_configs_leave_fields_out():
    """As those of Gemma 3 do; the rest is the text model's default."""
    text = {"hidden_size": 64, "num_hidden_layers": 7, "model_type": "gemma3_text"}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    spec, _ = spec_from_config(config)
    assert (spec.hidden, spec.vocab, spec.tied_head, len(spec.layers)) == (64, 262208, True, 7)
    assert (spec.layers[0].mixer.heads, spec.layers[0].mixer.window) == (8, 4096)
    config = {"architectures": ["Mistral3ForConditionalGeneration"]}
    with pytest.raises(ModelError, match=r"text model 'gemma'.* mistral"):
        spec_from_config({**config, "text_config": {**text, "model_type": "gemma"}})


def test_tensors_are_read_to_the_device_where_they_stay(folder, monkeypatch):
    asked, open_cpu = [], safetensors.safe_open

    def spy(file, *, framework, device):
        asked.append(device)
        return open_cpu(file, framework=framework, device="cpu")

    monkeypatch.setattr(safetensors, "safe_open", spy)
    names = [name for name, _ in SafetensorsFolder(folder).tensors(torch.device("cuda", 1))]
    assert asked == ["cuda:1"]
    assert "model.embed_tokens.weight" in names


def test_one_tensor_at_a_time_is_held_beside_the_model(folder):
    given, alive = [], []

    class Watched(SafetensorsFolder):
        def tensors(self, device):
            for name, tensor in super().tensors(device):
                alive.append(sum(one() is not None for one in given))
                given.append(weakref.ref(tensor))
                pair = (name, tensor)
                del tensor
                yield pair
                del pair

    loader.load_model(Watched(folder), torch.device("cpu"))
    assert len(given) > 10
    assert max(alive) == 0


def test_layers_are_packed_as_soon_as_they_are_whole(checkpoint, monkeypatch):
    """While a model is read, no more than a layer's projections lie there unpacked."""
    held, most = set(), []

    class Watched(FloatFormat):
        def prepare(self, parts, bias):
            held.discard(id(parts["weight"]))
            most.append(len(held))
            return super().prepare(parts, bias)

    allocated = loader.allocated

    def counted(model, name, device):
        parameter = allocated(model, name, device)
        if name.startswith("layers.") and parameter.dim() == 2:
            held.add(id(parameter))
        return parameter

    monkeypatch.setattr(loader, "allocated", counted)
    monkeypatch.setattr(FloatFormat, "prepare_gated", lambda *args: None)
    source, cpu = SafetensorsFolder(Path(checkpoint("llama").folder)), torch.device("cpu")
    formats = Formats((Watched(torch.float32),), ())
    model = loader.load_model(source, cpu, "float32", formats).model
    assert len(most) == 4 * len(model.layers)
    assert max(most) == 3
    assert not held
    assert {name for name, _ in model.named_parameters() if "layers" in name} == {
        f"layers.{index}.{norm}.weight"
        for index in range(len(model.layers))
        for norm in ("mixer_norm", "ffn_norm")
    }


def test_what_weights_take_is_known_before_they_are_there(checkpoint):
    source, cpu = SafetensorsFolder(Path(checkpoint("qwen3").folder)), torch.device("cpu")
    for dtype in (torch.float32, torch.bfloat16):
        name, plain = str(dtype).removeprefix("torch."), choose_formats("auto", dtype, cpu)
        model = loader.load_model(source, cpu, name).model
        held = sum(one.nbytes for one in model.parameters())
        assert loader.weight_bytes(source, cpu, name, plain) == held

    # those that gain are in 8 bits, with a scale of 4 bytes for each row
    class WhereWide(Fp8Rows):
        def applies_to(self, outputs, inputs):
            return outputs > inputs

    for one in model.layers.parameters():
        if one.dim() == 2 and len(one) > one.shape[1]:
            held -= one.numel() - 4 * len(one)
    gains = Formats((WhereWide(), FloatFormat(torch.bfloat16)), ())
    assert loader.weight_bytes(source, cpu, "bfloat16", gains) == held
