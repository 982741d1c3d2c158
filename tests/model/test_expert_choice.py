"""Fewer experts: a mask at load, and fewer active ones; what `stoker experts` counts."""

import copy
import itertools
import json
import xml.dom.minidom

import pytest
import torch
from tiny import VOCAB
from transformers import MixtralConfig, MixtralForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from stoker import LLM, SamplingParams
from stoker.cli.main import main
from stoker.engine.setup.experts import divide
from stoker.errors import ConfigError
from stoker.model.loader import weights
from stoker.report.expert_load import LayerLoad, watch_experts

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
EXPERTS, ACTIVE, LAYERS = 8, 3, 3
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": EXPERTS,
    "num_experts_per_tok": ACTIVE,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
}


@pytest.fixture(scope="module")
def mixture(save_checkpoint):
    torch.manual_seed(0)
    return save_checkpoint("choice", Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES)))


@pytest.fixture(scope="module")
def some(prompts):
    return prompts[:8]


def tokens(folder, prompts, **options):
    with LLM(folder, device="cpu", **options) as llm:
        found = [output.outputs[0].token_ids for output in llm.generate(prompts, GREEDY)]
        plan, spec = llm.plan, llm.spec
        size = sum(
            one.nbytes for name, one in weights(llm.engine.runner.model) if "expert_" in name
        )
    return found, plan, spec, size


def save_mask(path, kept):
    layers = [{"layer": layer, "kept": experts} for layer, experts in kept.items()]
    path.write_text(json.dumps({"layers": layers}))
    return str(path)


def without(model, kept):
    """transformers' model, with the experts that are not kept cut out."""
    model = copy.deepcopy(model)
    for layer, experts in kept.items():
        mlp = model.model.layers[layer].mlp
        for owner, name in (
            (mlp.gate, "weight"),
            (mlp.experts, "gate_up_proj"),
            (mlp.experts, "down_proj"),
        ):
            setattr(owner, name, torch.nn.Parameter(getattr(owner, name)[experts]))
        mlp.gate.num_experts = mlp.experts.num_experts = len(experts)
    return model


KEPT = {0: [0, 2, 3, 7], 1: [1, 4, 5, 6], 2: [0, 1, 2, 4]}


@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 7}, {"dtype": "int8"}], ids=str)
def test_routing_covers_the_experts_that_are_kept(
    mixture, some, tmp_path, options, save_checkpoint
):
    mask = save_mask(tmp_path / "mask.json", KEPT)
    found, plan, spec, size = tokens(mixture.folder, some, expert_mask=mask, **options)
    assert plan.expert_mask == mask
    assert [layer.ffn.kept for layer in spec.layers] == [tuple(kept) for kept in KEPT.values()]
    whole = tokens(mixture.folder, some, **options)
    assert size == whole[3] / 2, "half of the experts take half the memory"
    assert spec.parameters() < whole[2].parameters()
    if not options.get("dtype"):
        cut = save_checkpoint("cut", without(mixture.model, KEPT))
        assert found == [cut.greedy(prompt, 8) for prompt in some]
    assert found != whole[0]


def test_experts_that_are_stored_one_by_one_are_dropped_too(save_checkpoint, some, tmp_path):
    """Mixtral's checkpoints hold each expert apart; those of layers not named stay."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 24}
    model = MixtralForCausalLM(MixtralConfig(**sizes))
    saved = save_checkpoint("one_by_one", model)
    kept = {1: [0, 3]}
    found = tokens(saved.folder, some, expert_mask=save_mask(tmp_path / "m.json", kept))
    cut = save_checkpoint("cut_mixtral", without(model, kept))
    assert found[0] == [cut.greedy(prompt, 8) for prompt in some]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({9: [0, 1, 2]}, "another model: layer 9 has none"),
        ({0: [0, 1, 8]}, "list experts of layer 0 in order, from 0 to 7"),
        ({0: [2, 1, 0]}, "in order"),
        ({0: []}, "in order"),
        ({0: [1, 2]}, "leaves 2 experts of layer 0, and a token takes 3"),
        ({0: [0, 1, "x"]}, "names no experts to keep"),
        ({}, "names no experts to keep"),
    ],
)
def test_a_wrong_mask_is_refused(mixture, tmp_path, kept, message):
    with pytest.raises(ConfigError, match=message):
        LLM(mixture.folder, expert_mask=save_mask(tmp_path / "mask.json", kept))


def test_a_mask_names_a_layer_once(mixture, tmp_path):
    path = tmp_path / "mask.json"
    path.write_text(json.dumps({"layers": [{"layer": 1, "kept": [0, 1, 2]}] * 2}))
    with pytest.raises(ConfigError, match="names layer 1 twice"):
        LLM(mixture.folder, expert_mask=path)


def test_a_mask_that_is_not_there_is_refused(mixture, tmp_path):
    with pytest.raises(ConfigError, match=r"expert_mask: cannot read .*none.json"):
        LLM(mixture.folder, expert_mask=tmp_path / "none.json")


def test_a_whole_budget_is_the_model_itself(mixture, some):
    plain = tokens(mixture.folder, some)
    for active in (3, 3.0, (3, 3, 3)):
        found = tokens(mixture.folder, some, active_experts=active)
        assert found[0] == plain[0]
        assert found[1].active_experts == (3, 3, 3)


def test_a_smaller_budget_is_divided_by_the_weights_alone(mixture, some):
    found = tokens(mixture.folder, some, active_experts=2)
    counts = found[1].active_experts
    assert sum(counts) == 2 * LAYERS
    assert counts == tokens(mixture.folder, [[1]], active_experts=2)[1].active_experts
    given = tokens(mixture.folder, some, active_experts=counts)
    assert given[0] == found[0]
    assert given[2].layers == found[2].layers


def test_each_layer_takes_its_own_number(mixture, some, save_checkpoint):
    model = copy.deepcopy(mixture.model)
    counts = (1, 3, 2)
    for layer, count in zip(model.model.layers, counts, strict=True):
        layer.mlp.gate.top_k = count
    found = tokens(mixture.folder, some, active_experts=counts)
    fewer = save_checkpoint("fewer", model)
    assert found[0] == [fewer.greedy(prompt, 8) for prompt in some]


@pytest.mark.parametrize("active", [0, 0.5, 4, 3.5, (1, 2), (1, 2, 4), (1, 2, 0), True, "2", ()])
def test_a_wrong_number_is_refused(mixture, active):
    with pytest.raises(ConfigError, match="active_experts"):
        LLM(mixture.folder, active_experts=active)


def test_a_model_without_experts_has_none_active(checkpoint):
    with pytest.raises(ConfigError, match="this model has none"):
        LLM(checkpoint("qwen3").folder, active_experts=2)


def test_the_division_is_the_best_there_is():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        costs = [
            [*sorted(torch.rand(3, generator=generator).tolist(), reverse=True), 0.0]
            for _ in range(4)
        ]
        for total in (4, 7, 10, 16):
            found = divide(costs, total)
            assert sum(found) <= total
            every = itertools.product(range(1, 5), repeat=4)
            best = min(
                sum(layer[one - 1] for layer, one in zip(costs, counts, strict=True))
                for counts in every
                if sum(counts) <= total
            )
            cost = sum(layer[one - 1] for layer, one in zip(costs, found, strict=True))
            assert cost == pytest.approx(best)
    assert divide([[0.0, 0.0], [1.0, 0.0]], 4) == [2, 2]


def routed(model, layer, prompts):
    """Tokens that transformers sends to each expert of a layer."""
    chosen = []
    gate = model.model.layers[layer].mlp.gate
    handle = gate.register_forward_hook(lambda _, given, out: chosen.append(out[2]))
    with torch.inference_mode():
        for prompt in prompts:
            model(torch.tensor([prompt]))
    handle.remove()
    return torch.bincount(torch.cat(chosen).flatten(), minlength=EXPERTS)


def test_the_counts_are_those_of_the_routers(mixture, some):
    with LLM(mixture.folder, prefix_cache=False) as llm:
        loads = watch_experts(llm.engine.runner.model)
        llm.generate(some, SamplingParams(temperature=0, max_tokens=1))
    count = sum(map(len, some))
    for load in loads[:-1]:
        assert load.tokens.sum() == ACTIVE * count
        assert torch.equal(load.tokens, routed(mixture.model, load.layer, some))
    assert loads[-1].tokens.sum() == ACTIVE * len(some), "behind it only drawn rows go on"


def test_the_command_counts_keeps_and_draws(mixture, some, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt_token_ids": prompt}) + "\n" for prompt in some))
    out = tmp_path / "load.json"
    command = ["experts", mixture.folder, "--input", str(rows), "-o", str(out), "--raw"]
    assert main([*command, "--keep", "0.5", "--max-tokens", "2"]) == 0
    told = json.loads(out.read_text())
    assert told["rows"] == len(some)
    for layer, load in enumerate(told["layers"]):
        assert (load["layer"], load["experts"], load["active"]) == (layer, EXPERTS, ACTIVE)
        worth = [n * mean for n, mean in zip(load["tokens"], load["mean_weight"], strict=True)]
        best = sorted(range(EXPERTS), key=lambda one: -worth[one])[: EXPERTS // 2]
        assert load["kept"] == sorted(best)
    cells = xml.dom.minidom.parse(str(out.with_suffix(".svg"))).getElementsByTagName("title")
    assert len(cells) == LAYERS * EXPERTS
    found = tokens(mixture.folder, some, expert_mask=out)
    assert [layer.ffn.kept for layer in found[2].layers] == [
        tuple(load["kept"]) for load in told["layers"]
    ]
    assert main([*command, "--keep", "0"]) == 1
    assert "--keep must be a share" in capsys.readouterr().err


def counted(folder, rows, out, *more):
    """The command over rows of text, and the tokens that each layer has counted in all."""
    path = out.with_suffix(".jsonl")
    path.write_text("".join(f"{row}\n" for row in rows))
    command = ["experts", folder, "--input", str(path), "-o", str(out), "--raw", *more]
    code = main(command)
    layers = json.loads(out.read_text())["layers"] if out.exists() else []
    return command, code, [sum(layer["tokens"]) for layer in layers]


def row(*ids):
    return json.dumps({"prompt_token_ids": ids})


def test_equal_rows_count_each(mixture, tmp_path, capsys):
    out = tmp_path / "load.json"
    rows = [row(1, 2, 3)] * 4
    command, code, sums = counted(mixture.folder, rows, out, "--max-tokens", "1")
    assert (code, sums) == (0, [ACTIVE * 12, ACTIVE * 12, ACTIVE * 4])
    assert "4 of 4" in capsys.readouterr().out
    assert main(command) == 1
    assert f"{out} exists; give another name, or --restart" in capsys.readouterr().err
    assert main([*command, "--restart", "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_rows_without_an_answer_are_named_and_counted(mixture, tmp_path, capsys):
    rows = [row(1, 2), "{", *[row()] * 6]
    _, code, _ = counted(mixture.folder, rows, tmp_path / "load.json")
    shown, told = capsys.readouterr(), json.loads((tmp_path / "load.json").read_text())
    assert (code, told["rows"]) == (3, 1)
    assert [f"stoker: row {n}: bad_row, " in shown.err for n in range(2, 8)] == [True] * 5 + [False]
    assert "7 bad_row" in shown.out


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("load.svg", [row(1)], "is where the picture goes"),
        ("none/load.json", [row(1)], "does not exist; make it first"),
        ("load.json", ["{"], "no row could be run"),
        ("load.jsonl", [row(1)], "input and output are the same file"),
    ],
)
def test_what_can_not_be_counted_is_refused(mixture, tmp_path, name, rows, message, capsys):
    path = tmp_path / "load.jsonl"
    path.write_text("".join(f"{one}\n" for one in rows))
    command = ["experts", mixture.folder, "--input", str(path), "-o", str(tmp_path / name)]
    assert main([*command, "--raw", "--keep", "0.5"]) == 1
    assert message in capsys.readouterr().err
    assert [found.name for found in tmp_path.iterdir()] == ["load.jsonl"]


def test_experts_without_weights_are_not_kept():
    weights = torch.tensor([1.0, 3.0, 2.0, 9.0])
    load = LayerLoad(0, 1, 3, torch.zeros(4, dtype=torch.int64), weights)
    assert load.heaviest(0.5) == [1, 2]


def test_a_model_without_experts_is_refused(checkpoint, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt_token_ids": [1, 2]}\n')
    folder = checkpoint("qwen3").folder
    assert main(["experts", folder, "--input", str(rows), "-o", str(tmp_path / "x"), "--raw"]) == 1
    assert "this model has no experts" in capsys.readouterr().err
