"""Arguments of vLLM's `LLM`, as programs written for it pass them: by our names, or refused.

    max_model_len=4096                ->  max_context=4096
    enforce_eager=True                ->  cuda_graphs=False
    tensor_parallel_size=1            ->  nothing: it is so in any case
    tensor_parallel_size=2            ->  ConfigError

An argument is accepted where it asks for what an option of ours does, or for what Stoker does in
any case. Names and meanings are those of vLLM 0.6 to 0.33.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.config import EngineOptions
from stoker.errors import ConfigError

RENAMED = {
    "max_model_len": "max_context",
    "gpu_memory_utilization": "gpu_memory",
    "kv_cache_memory_bytes": "cache_memory",
    "kv_cache_dtype": "kv_dtype",
    "num_gpu_blocks_override": "num_blocks",
    "enable_prefix_caching": "prefix_cache",
    "max_num_seqs": "max_running",
    "max_num_batched_tokens": "max_batch_tokens",
    "scheduling_policy": "policy",
    "async_scheduling": "overlap",
    "enforce_eager": "cuda_graphs",
}
VALUES: dict[str, dict[Any, Any]] = {  # what some values are called here
    "dtype": {"half": "float16", "float": "float32"},
    "quantization": {None: "auto"},
    "seed": {None: EngineOptions.seed},
    "kv_cache_dtype": {"fp8_e4m3": "fp8"},
    "enable_prefix_caching": {None: "auto"},
    "async_scheduling": {None: "auto"},
    "enforce_eager": {True: False, False: "auto"},
}
ANY = (True, False, None)
ONE_DEVICE = "a model runs on one device; `stoker run --replicas` uses more of a CPU"
ADAPTERS = "merge the adapter into its model (peft's merge_and_unload) and load that"
TEXT_ALONE = "prompts are text"
CONFIG = "write it into the config.json of a copy of the model's folder"
BY_CALL = "any model loads for every call it can do: generate, embed, classify, score"
# values that ask for what Stoker does in any case, and what to do in place of others
FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "tensor_parallel_size": ((1,), ONE_DEVICE),
    "pipeline_parallel_size": ((1,), ONE_DEVICE),
    "data_parallel_size": ((1,), ONE_DEVICE),
    "enable_expert_parallel": ((False,), ONE_DEVICE),
    "distributed_executor_backend": ((None, "uni"), ONE_DEVICE),
    "disable_custom_all_reduce": (ANY, ""),
    # a permission that is never made use of
    "trust_remote_code": (ANY, "no code of a checkpoint is ever run"),
    "hf_token": ((None, True), "pass it as token"),
    "tokenizer_revision": ((None,), "the tokenizer is of the same revision as the model"),
    "tokenizer_mode": (("auto", "hf"), "the tokenizer is made by transformers"),
    "skip_tokenizer_init": ((False,), "a tokenizer is made when a text needs it; pass token ids"),
    "task": (("auto", "generate", None), BY_CALL),
    "runner": (("auto", "generate", None), BY_CALL),
    "convert": (("auto", "none", None), BY_CALL),
    "load_format": (("auto", "safetensors"), "weights are read from safetensors files"),
    "config_format": (("auto", "hf"), "the model's config.json is read"),
    "model_impl": (("auto",), "there is one implementation"),
    "generation_config": (
        ("vllm", None),
        "sampling parameters are those of SamplingParams alone; of generation_config.json the end "
        "of sequence is read",
    ),
    "download_dir": ((None,), "the folder of downloads is that of huggingface_hub (HF_HUB_CACHE)"),
    "hf_overrides": ((None, {}), CONFIG),
    "rope_scaling": ((None, {}), CONFIG),
    "rope_theta": ((None,), CONFIG),
    "swap_space": ((0, None), "nothing is swapped: what does not fit is computed again"),
    "cpu_offload_gb": ((0, None), "weights are on one device; quantization makes them smaller"),
    "enable_chunked_prefill": (
        (True, None),
        "a step takes max_batch_tokens of a prompt; raise that to the longest prompt's length",
    ),
    "max_seq_len_to_capture": ((None,), "graphs do not depend on lengths; see cuda_graphs"),
    "compilation_config": ((None, 0, {}), "see cuda_graphs"),
    "speculative_config": ((None, {}), "nothing is drafted"),
    "disable_log_stats": ((True,), "nothing is logged; see llm.engine.stats"),
    "max_logprobs": ((-1, None), "there is no limit"),
    "logits_processors": ((None, []), "pass them to SamplingParams"),
    "guided_decoding_backend": (("auto", "guidance", None), "answers follow llguidance"),
    "structured_outputs_config": ((None, {}), "answers follow llguidance"),
    "enable_lora": ((False, None), ADAPTERS),
    "limit_mm_per_prompt": ((None, {}), TEXT_ALONE),
    "mm_processor_kwargs": ((None, {}), TEXT_ALONE),
}
FOLDER = "it is in the model's folder; put another one's files into a copy of that"


def engine_options(model: str, options: Mapping[str, Any]) -> EngineOptions:
    """The options of an engine, given by our names or by vLLM's.

    Raises:
        ConfigError: a name is unknown, or a value can't be had; the message has the name as given
            and what serves in its place.
    """
    found: dict[str, Any] = {}
    called: dict[str, str] = {}  # as given, by our name
    for name, value in options.items():
        if name in FIXED:
            _insist(name, value, *FIXED[name])
        elif name == "tokenizer":
            _insist(name, value, (None, model), FOLDER)
        else:
            ours = RENAMED.get(name, name)
            if ours in found:
                raise ConfigError(f"{called[ours]} and {name} are the same here; give one of them")
            found[ours], called[ours] = _translated(name, value), name
    try:
        return EngineOptions.from_options(**found)
    except ConfigError as problem:
        renamed = [f"{name} is {ours} here" for ours, name in called.items() if ours != name]
        named = [one for one in renamed if one.split()[2] in str(problem)]
        raise ConfigError(f"{problem} ({', '.join(named)})" if named else str(problem)) from None


def _insist(name: str, value: Any, allowed: tuple[Any, ...], advice: str) -> None:
    """Refuse a value that is none of those allowed."""
    if not any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed
    ):
        raise ConfigError(f"{name}={value!r} can't be had: {advice}")


def _translated(name: str, value: Any) -> Any:
    if name == "dtype":  # torch.float16 is "float16"
        value = str(value).removeprefix("torch.")
    plain = value is None or isinstance(value, str | bool)
    return VALUES.get(name, {}).get(value, value) if plain else value
