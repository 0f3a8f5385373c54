"""Adapters of peft as llama.cpp's convert_lora_to_gguf.py lays them out, written with the gguf package.

Names are those of the package's own table. What the script leaves out is here: it writes lora_alpha whatever the scale is, so of
rsLoRA and of patterns llama.cpp would apply another adapter. Here `adapter.lora.alpha` is what gives the first module peft's scale,
and B of the others carries the rest.
"""

import gguf
import numpy as np
import torch
from peft import PeftModel

import families
import tiny
from gguf_files import permute

ARCH = gguf.MODEL_ARCH
# By the class of the checkpoint, as the script's registry of models has it.
ARCHITECTURES = {
    "LlamaForCausalLM": ARCH.LLAMA,
    "MistralForCausalLM": ARCH.LLAMA,
    "Qwen2ForCausalLM": ARCH.QWEN2,
    "Qwen3ForCausalLM": ARCH.QWEN3,
    "GemmaForCausalLM": ARCH.GEMMA,
    "Gemma2ForCausalLM": ARCH.GEMMA2,
    "Gemma3ForCausalLM": ARCH.GEMMA3,
    "Gemma3ForConditionalGeneration": ARCH.GEMMA3,
    "Phi3ForCausalLM": ARCH.PHI3,
    "Olmo2ForCausalLM": ARCH.OLMO2,
    "GraniteForCausalLM": ARCH.GRANITE,
}
# Those whose model derives from the converter's LlamaModel, which reorders the rows of q and k.
PERMUTED = {ARCH.LLAMA, ARCH.GRANITE}
# Adapter: its base.
TINY = {
    "tiny-llama": "tiny-llama",
    "tiny-llama-rslora": "tiny-llama",
    "tiny-llama-patterns": "tiny-llama",
    "tiny-llama-64": "tiny-llama-64",
}


def adapted(model):
    """The modules with an adapter, by their names in the base."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            name = name.removeprefix("base_model.model.")
            a, b = (getattr(module, part)["default"].weight.detach().numpy() for part in ("lora_A", "lora_B"))
            yield name, a, b, module.scaling["default"]


def pairs(model):
    """The alpha of the file, and each tensor by its name."""
    config = model.config
    text = getattr(config, "text_config", config)
    arch = ARCHITECTURES[config.architectures[0]]
    names = gguf.get_tensor_name_map(arch, text.num_hidden_layers)
    alpha, tensors = None, {}
    for name, a, b, scaling in adapted(model):
        rank = a.shape[0]
        alpha = scaling * rank if alpha is None else alpha
        if not np.isclose(scaling * rank, alpha, rtol=1e-12):
            b = (b.astype(np.float64) * (scaling * rank / np.float64(np.float32(alpha)))).astype(np.float32)
        heads = {"q_proj": text.num_attention_heads, "k_proj": text.num_key_value_heads}.get(name.rsplit(".", 1)[1])
        if heads and arch in PERMUTED:
            b = permute(b, heads)
        plain = name.replace("model.language_model.", "model.")
        theirs = names.get_name(f"{plain}.weight", try_suffixes=(".weight",))
        tensors |= {f"{theirs}.lora_a": a, f"{theirs}.lora_b": b}
    return arch, alpha, tensors


def write(path, model):
    arch, alpha, tensors = pairs(model)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def models(out):
    """Each adapter on its base, by the name of the file."""
    for name, base in TINY.items():
        yield name, PeftModel.from_pretrained(tiny.load(out, base), out / "adapters" / name)
    for name in families.FAMILIES:
        folder = out / "families" / name
        yield name, PeftModel.from_pretrained(families.load(folder, name), folder / "adapter")


def write_adapters(out):
    folder = out / "gguf-adapters"
    folder.mkdir()
    with torch.no_grad():
        for name, model in models(out):
            write(folder / f"{name}.gguf", model.eval())
