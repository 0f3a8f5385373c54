"""Loads adapters of the fixtures into llama.cpp itself and compares its logits with those of transformers + peft. Live: not in make test.

    python tests/parity/llama_cpp.py FOLDER

FOLDER has the libraries of llama.cpp, as the npm package @node-llama-cpp/linux-x64 brings them in bins/linux-x64 (tried with 3.22.1, whose
llama.cpp says v0.5.0). The bases are written here with the gguf package, in fp32; the adapters are trainer/tests/fixtures/gguf-adapters, which the
trainer's tests hold to what the trainer writes. llama.cpp keeps keys and values in half precision, so numbers agree to about 1e-3.
"""

import ctypes
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file

import families
from gguf_adapter import ARCHITECTURES, PERMUTED
from gguf_files import permute

FIXTURES = Path(__file__).resolve().parents[2] / "trainer/tests/fixtures"
# No longer than the shortest window, which llama.cpp does not read of every family.
TOKENS = [17, 5, 80, 42]
CHECKED = ["llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2", "granite"]
TOLERANCE = 5e-3
# At least what the structs of the C interface take. They come back, and go in last, on the stack: too much room does no harm.
Parameters = ctypes.c_byte * 4096


class Struct(ctypes.Structure):
    _fields_ = [("bytes", Parameters)]


class Batch(ctypes.Structure):
    _fields_ = [("tokens", ctypes.c_int32), ("pointers", ctypes.c_void_p * 6)]


def write_base(path, folder, config):
    arch = ARCHITECTURES[config.architectures[0]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(theta)
    writer.add_rope_dimension_count(head)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    if arch == gguf.MODEL_ARCH.GRANITE:
        writer.add_attention_scale(config.attention_multiplier)
        writer.add_embedding_scale(config.embedding_multiplier)
        writer.add_residual_scale(config.residual_multiplier)
        writer.add_logit_scale(config.logits_scaling)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for key, value in load_file(folder / "model.safetensors").items():
        array = value.float().numpy()
        part = key.rsplit(".", 2)[1]
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(part)
        if heads and arch in PERMUTED:
            array = permute(array, heads)
        if arch == gguf.MODEL_ARCH.GEMMA and "norm" in key:
            array = array + 1
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    def __init__(self, folder):
        def find(pattern):
            return next(iter(sorted(folder.glob(pattern))))

        def load(pattern):
            return ctypes.CDLL(str(find(pattern)), mode=ctypes.RTLD_GLOBAL)

        load("libggml-base*.so*")
        backends = load("libggml.*so*")
        self.api = load("libllama.*so*")
        backends.ggml_backend_load_all_from_path(str(folder).encode())
        for name in ("llama_model_default_params", "llama_context_default_params"):
            getattr(self.api, name).restype = Struct
        for name in ("llama_model_load_from_file", "llama_init_from_model", "llama_adapter_lora_init"):
            getattr(self.api, name).restype = ctypes.c_void_p
        self.api.llama_get_logits_ith.restype = ctypes.POINTER(ctypes.c_float)
        self.api.llama_batch_get_one.restype = Batch
        self.quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(self.log)
        self.api.llama_log_set(self.quiet, None)
        self.lines = []
        self.api.llama_backend_init()

    def log(self, _level, text, _data):
        self.lines.append(text.decode(errors="replace"))

    def logits(self, base, adapter, size):
        """The logits after the last token; `adapter` may be None."""
        model = self.api.llama_model_load_from_file(str(base).encode(), self.api.llama_model_default_params())
        if not model:
            sys.exit("llama.cpp does not load the base:\n" + "".join(self.lines[-12:]))
        model = ctypes.c_void_p(model)
        context = ctypes.c_void_p(self.api.llama_init_from_model(model, self.api.llama_context_default_params()))
        if adapter:
            lora = self.api.llama_adapter_lora_init(model, str(adapter).encode())
            if not lora:
                sys.exit("llama.cpp does not load the adapter:\n" + "".join(self.lines[-12:]))
            if self.api.llama_set_adapters_lora(context, (ctypes.c_void_p * 1)(lora), ctypes.c_size_t(1), (ctypes.c_float * 1)(1.0)):
                sys.exit("llama.cpp does not take the adapter")
        tokens = (ctypes.c_int32 * len(TOKENS))(*TOKENS)
        if self.api.llama_decode(context, self.api.llama_batch_get_one(tokens, len(TOKENS))):
            sys.exit("llama.cpp does not decode")
        return np.array(self.api.llama_get_logits_ith(context, -1)[:size])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    llama = LlamaCpp(Path(sys.argv[1]).resolve())
    faults = 0
    for name in CHECKED:
        folder = FIXTURES / "families" / name
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            model = families.load(folder, name)
            base = Path(scratch) / "base.gguf"
            write_base(base, folder, model.config)
            size = model.config.vocab_size
            tokens = torch.tensor([TOKENS])
            plain = model(input_ids=tokens).logits[0, -1].numpy()
            adapted = PeftModel.from_pretrained(model, folder / "adapter").eval()(input_ids=tokens).logits[0, -1].numpy()
            alone = llama.logits(base, None, size)
            both = llama.logits(base, FIXTURES / "gguf-adapters" / f"{name}.gguf", size)
        largest = np.abs(adapted).max()
        base_error, error = np.abs(alone - plain).max() / largest, np.abs(both - adapted).max() / largest
        moved = np.abs(adapted - plain).max() / largest
        print(f"{name}: base off by {base_error:.1e}, base and adapter by {error:.1e}; the adapter moves the logits by {moved:.1e}", flush=True)
        faults += not (base_error < TOLERANCE and error < TOLERANCE and moved > 10 * TOLERANCE)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
