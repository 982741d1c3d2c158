"""Classification heads and bare backbones: values of transformers, strict loading, refusals."""

import json
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from stoker import LLM, SamplingParams
from stoker.errors import InvalidRequestError, ModelError
from stoker.model.families import FAMILIES
from stoker.model.heads import CAUSAL, causal_form, resolve
from stoker.model.weights import From
from stoker.ops.native.build import load_kernels

SIZES = {**tiny.SIZES, "num_hidden_layers": 2, "pad_token_id": 7}
NAMES = {0: "good", 1: "bad", 2: "odd"}
MAKERS = {
    "llama": lambda **more: LlamaForSequenceClassification(LlamaConfig(**SIZES, **more)),
    "qwen3": lambda **more: Qwen3ForSequenceClassification(
        Qwen3Config(**{**SIZES, "tie_word_embeddings": True, **more})
    ),
}
ACTIVATIONS = {
    None: lambda logits: logits.softmax(-1),
    "single_label_classification": lambda logits: logits.softmax(-1),
    "multi_label_classification": torch.sigmoid,
}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A function from (family, changes of its config) to (folder, transformers' model)."""

    def make(name, **changes):
        torch.manual_seed(5)
        model = MAKERS[name](**changes).eval()
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        return str(folder), model

    return make


@torch.inference_mode()
def logits_of(model, prompts):
    return torch.cat([model(torch.tensor([prompt])).logits for prompt in prompts])


def edit_config(folder, **changes):
    path = folder / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in fields.items() if v != "absent"}))


@pytest.mark.parametrize("problem", ACTIVATIONS)
@pytest.mark.parametrize("name", MAKERS)
def test_probabilities_equal_transformers(name, problem, classifier, prompts):
    folder, model = classifier(name, id2label=NAMES, problem_type=problem)
    logits = logits_of(model, prompts)
    probs = ACTIVATIONS[problem](logits)
    with LLM(folder, max_batch_tokens=50) as llm:
        outputs = llm.classify(prompts)
    assert (torch.tensor([one.outputs.logits for one in outputs]) - logits).abs().max() < 1e-4
    assert (torch.tensor([one.outputs.probs for one in outputs]) - probs).abs().max() < 1e-4
    labels = [NAMES[at] for at in logits.argmax(-1).tolist()]
    assert [one.outputs.label for one in outputs] == labels
    assert [one.prompt_token_ids for one in outputs] == prompts


def test_two_labels_are_the_default(classifier, prompts):
    folder, model = classifier("llama")
    assert model.config.num_labels == 2
    with LLM(folder) as llm:
        assert llm.head.labels == ("LABEL_0", "LABEL_1")
        found = torch.tensor([one.outputs.probs for one in llm.classify(prompts[:4])])
    assert (found - logits_of(model, prompts[:4]).softmax(-1)).abs().max() < 1e-5


@pytest.mark.parametrize("name", MAKERS)
def test_reward_models_score_texts(name, classifier, prompts):
    folder, model = classifier(name, num_labels=1)
    with LLM(folder) as llm:
        scores = torch.tensor([one.outputs.score for one in llm.score(prompts)])
        with pytest.raises(InvalidRequestError, match=r"one value \(LABEL_0\).*; call score"):
            llm.classify(prompts)
    assert (scores - logits_of(model, prompts)[:, 0]).abs().max() < 1e-4


def test_one_label_with_a_sigmoid(classifier, prompts):
    folder, model = classifier("qwen3", num_labels=1, problem_type="multi_label_classification")
    expected = logits_of(model, prompts).sigmoid()[:, 0]
    with LLM(folder) as llm:
        scores = torch.tensor([one.outputs.score for one in llm.score(prompts)])
        probs = torch.tensor([one.outputs.probs[0] for one in llm.classify(prompts)])
    assert (scores - expected).abs().max() < 1e-5
    assert torch.equal(scores, probs)


def test_a_regression_with_several_values(classifier, prompts):
    folder, model = classifier("llama", num_labels=3, problem_type="regression")
    with LLM(folder) as llm:
        outputs = llm.classify(prompts[:4])
        with pytest.raises(InvalidRequestError, match=r"3 labels \(LABEL_0, .*call classify"):
            llm.score(prompts[:4])
    assert {one.outputs.probs for one in outputs} == {None}
    assert {one.outputs.label for one in outputs} == {None}
    found = torch.tensor([one.outputs.logits for one in outputs])
    assert (found - logits_of(model, prompts[:4])).abs().max() < 1e-4


@pytest.mark.skipif(load_kernels("attention") is None, reason="no C compiler")
def test_scores_have_the_same_bits_however_work_is_scheduled(classifier, prompts):
    folder, _ = classifier("qwen3", id2label=NAMES)

    def run(chosen, **options):
        with LLM(folder, **options) as llm:
            outputs = llm.classify(chosen)
            assert llm.engine.scheduler.pool.held == 0
            again = llm.classify(chosen)
        assert [one.outputs for one in again] == [one.outputs for one in outputs]
        return [one.outputs for one in outputs]

    together = run(prompts)
    assert run(prompts, max_batch_tokens=7) == together
    assert run(prompts, num_blocks=5, prefix_cache=False) == together
    assert run(prompts, policy="prefix", max_running=3) == together
    for number in range(0, len(prompts), 6):
        assert run([prompts[number]]) == [together[number]]


def test_trailing_padding_is_no_part_of_a_prompt(classifier):
    folder, model = classifier("qwen3", id2label=NAMES)
    padded = [[3, 4, 5], [3, 4, 5, 7, 7], [7, 3, 7], [7, 7]]
    with LLM(folder) as llm:
        outputs = llm.classify(padded)
    assert outputs[0].outputs == outputs[1].outputs
    assert [one.prompt_token_ids for one in outputs] == [[3, 4, 5], [3, 4, 5], [7, 3], [7]]
    found = torch.tensor([one.outputs.logits for one in outputs])
    assert (found - logits_of(model, padded)).abs().max() < 1e-5


def test_half_precision_heads(classifier, prompts):
    folder, model = classifier("llama", id2label=NAMES)
    with LLM(folder, dtype="bfloat16") as llm:
        found = torch.tensor([one.outputs.logits for one in llm.classify(prompts[:8])])
    expected = logits_of(model.bfloat16(), prompts[:8]).float()
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


def test_pairs_are_joined_by_the_tokenizer(classifier, text_model, tmp_path):
    source, model = classifier("qwen3", num_labels=1)
    folder = tmp_path / "cross"
    shutil.copytree(source, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{text_model}/{name}", folder)
    with LLM(str(folder)) as llm:
        outputs = llm.score("hello", ["there", "world"])
        ids = [llm.text.tokenizer.encode("hello", text) for text in ("there", "world")]
        (alone,) = llm.score("hello")
        assert alone.outputs.score != outputs[0].outputs.score
        with pytest.raises(InvalidRequestError, match="pairs for a scoring head must be texts"):
            llm.score([[1, 2]], ["a"])
        with pytest.raises(InvalidRequestError, match="there are 2 first texts and 3 second"):
            llm.score(["a", "b"], ["c"] * 3)
    assert [one.prompt_token_ids for one in outputs] == ids
    found = torch.tensor([one.outputs.score for one in outputs])
    assert (found - logits_of(model, ids)[:, 0]).abs().max() < 1e-5


def test_a_classifier_embeds_and_does_not_generate(classifier, prompts):
    folder, model = classifier("llama", id2label=NAMES)
    with LLM(folder) as llm:
        with pytest.raises(InvalidRequestError, match="call embed, or classify or score"):
            llm.generate(prompts, SamplingParams())
        found = torch.tensor(llm.embed([prompts[0]], normalize=False)[0].outputs.embedding)
    with torch.inference_mode():
        expected = model.model(torch.tensor([prompts[0]])).last_hidden_state[0, -1]
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.layers.1.mlp.down_proj.weight", "layers.1.ffn.down.weight"),
        ("score.weight", "head.weight"),
    ],
)
def test_nan_weights_are_named(theirs, ours, classifier, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(classifier("llama", id2label=NAMES)[0], folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[theirs][2, 4] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with LLM(str(folder)) as llm:
        with pytest.raises(ModelError, match=f"{ours} hold NaN"):
            llm.classify([[1, 2, 3]])
        assert llm.engine.scheduler.pool.held == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a"}}, r"score.weight has shape \(3, 64\) .* \(1, 64\)"),
        ({"id2label": ["a"]}, "id2label in config.json must be an object"),
        ({"id2label": "absent", "num_labels": 0}, "num_labels .* must be a whole number, not 0"),
        ({"problem_type": "guess"}, "problem_type 'guess' in config.json is not known; .*regress"),
        ({"is_causal": False}, "is_causal is false .* both directions is not supported"),
        ({"use_bidirectional_attention": True}, "both directions is not supported"),
        ({"architectures": ["LlamaForCausalLM"]}, "checkpoint lacks lm_head.weight"),
        ({"architectures": ["LlamaModel"]}, "no place for: score.weight"),
        ({"architectures": ["XLNetModel"]}, "'XLNetModel' is not supported"),
        ({"architectures": ["Model"]}, "'Model' is not supported"),
    ],
)
def test_unsuitable_config(changes, message, classifier, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(classifier("llama", id2label=NAMES)[0], folder)
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=message):
        LLM(str(folder))


def test_nothing_missing_and_nothing_left_over(classifier, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(classifier("llama", id2label=NAMES)[0], folder)
    tensors = load_file(folder / "model.safetensors")
    weights, metadata = folder / "model.safetensors", {"format": "pt"}
    without = {name: one for name, one in tensors.items() if name != "score.weight"}
    save_file(without, weights, metadata=metadata)
    with pytest.raises(ModelError, match=r"lacks score.weight"):
        LLM(str(folder))
    save_file({**tensors, "score.bias": torch.zeros(3)}, weights, metadata=metadata)
    with pytest.raises(ModelError, match=r"no place for: score.bias"):
        LLM(str(folder))
    twice = {**tensors, "norm.weight": tensors["model.norm.weight"].clone()}
    save_file(twice, weights, metadata=metadata)
    with pytest.raises(ModelError, match=r"no place for: (model\.)?norm.weight"):
        LLM(str(folder))


def test_a_language_model_may_be_saved_without_its_prefix(tmp_path):
    """Embedding models are often published so, under the name of the language model."""
    torch.manual_seed(2)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)).eval()
    model.save_pretrained(tmp_path)
    with LLM(str(tmp_path)) as llm:
        expected = llm.embed([[1, 2, 3]])[0].outputs
    tensors = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("model."): one for name, one in tensors.items()}
    assert not any(name.startswith("model.") for name in bare)
    save_file(bare, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with LLM(str(tmp_path)) as llm:
        assert llm.embed([[1, 2, 3]])[0].outputs == expected
        assert llm.generate([[1, 2, 3]], SamplingParams(max_tokens=2))[0].finished


@pytest.mark.parametrize("base", sorted(name for name in FAMILIES if name.endswith(CAUSAL)))
def test_every_family_has_all_forms(base):
    """Named after the language model, and its backbone's names have one prefix."""
    ending = next(one for one in CAUSAL if base.endswith(one))
    for form in ("Model", "ForSequenceClassification"):
        assert causal_form(base.removesuffix(ending) + form, form) == base
    family = FAMILIES[base]
    names = [
        one
        for ours, source in family.names.items()
        for one in source.tensors
        if not ours.startswith(("head.", "head_map."))
    ]
    assert all(name.startswith(family.base) for name in names)


@pytest.mark.parametrize("stem", ["Llama", "Qwen3"])
def test_forms_differ_by_the_head_alone(stem):
    sizes = {**SIZES, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "num_labels": 4}

    def form(ending):
        return resolve({**sizes, "architectures": [stem + ending]})

    spec, family, head = form("ForCausalLM")
    rest = {ours: names for ours, names in family.names.items() if ours != "head.weight"}
    assert (spec.labels, head.tasks) == (None, ("generate", "embed"))
    bare, family, head = form("Model")
    assert (bare.labels, bare.tied_head, head.tasks) == (0, False, ("embed",))
    assert family.names == rest
    scored, family, head = form("ForSequenceClassification")
    assert (scored.labels, scored.tied_head, len(head.labels)) == (4, False, 4)
    assert family.names == {**rest, "head.weight": From(("score.weight",))}
    assert spec.layers == bare.layers == scored.layers


def test_activations_stay_in_range():
    from stoker.llm.scoring import activate, cosine

    assert activate([1e5, -1e5], "single_label_classification") == [1.0, 0.0]
    assert activate([1e5, -1e5], "multi_label_classification") == [1.0, 0.0]
    assert activate([3.0, -2.0], "regression") == [3.0, -2.0]
    assert cosine([0.0, 0.0], [1.0, 2.0]) == 0.0
