"""Writes the trainer's parity fixtures from the reference stack named in requirements.txt.

    python tests/parity/make_fixtures.py             writes trainer/tests/fixtures
    python tests/parity/make_fixtures.py --check     makes them again elsewhere and compares

The environment variable FINETUNE_SMOLLM2_GGUF names SmolLM2-135M-Instruct.Q4_1.gguf; without it, that part is kept.
Must be deterministic: what `--check` compares was made on another machine. README.md of the fixtures is written by hand.
"""

import argparse
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

# peft keeps module names in sets, whose order depends on this seed.
if os.environ.get("PYTHONHASHSEED") != "0":
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0", "HF_HUB_OFFLINE": "1"})

import torch  # noqa: E402
import transformers  # noqa: E402

import bf16  # noqa: E402
import bnb_files  # noqa: E402
import chat  # noqa: E402
import content_parts  # noqa: E402
import data  # noqa: E402
import families  # noqa: E402
import family_files  # noqa: E402
import four_bit  # noqa: E402
import gguf_adapter  # noqa: E402
import gguf_files  # noqa: E402
import gguf_types  # noqa: E402
import jinja  # noqa: E402
import loop  # noqa: E402
import lora  # noqa: E402
import methods  # noqa: E402
import parquet_files  # noqa: E402
import preference  # noqa: E402
import sentence_piece  # noqa: E402
import tiny  # noqa: E402
import training  # noqa: E402
from compare import compare  # noqa: E402

FIXTURES = Path(__file__).resolve().parents[2] / "trainer/tests/fixtures"
LIMIT_BYTES = 9_000_000

STEPS = [
    tiny.write_models,
    lora.write_adapters,
    lora.write_expected,
    lora.write_mutations,
    training.write_trajectories,
    training.write_schedules,
    training.write_rope,
    four_bit.write_matrices,
    four_bit.write_models,
    bnb_files.write_bnb,
    methods.write_adapters,
    methods.write_expected,
    methods.write_mutations,
    preference.write_expected,
    gguf_files.write_gguf,
    gguf_files.write_llama3,
    gguf_types.write_types,
    gguf_types.write_model,
    chat.write_tiny,
    chat.write_smollm2,
    data.write_tokenizers,
    data.write_texts,
    data.write_templates,
    content_parts.write_expected,
    jinja.write_expected,
    sentence_piece.write_models,
    gguf_files.write_tokenizers,
    parquet_files.write_files,
    families.write_models,
    families.write_expected,
    family_files.write_saved,
    families.write_ropes,
    families.write_mutations,
    gguf_adapter.write_adapters,
    bf16.write_distances,
    loop.write_adamw_8bit,
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed fixtures, write nothing")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "fixtures"
        out.mkdir()
        for step in STEPS:
            print(f"{step.__module__}.{step.__name__}", flush=True)
            step(out)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        print(f"{size} bytes")
        if size > LIMIT_BYTES:
            sys.exit(f"the fixtures have {size} bytes, expected at most {LIMIT_BYTES}")
        if arguments.check:
            faults = compare(out, FIXTURES)
            sys.exit("\n".join(faults) if faults else 0)
        for old in FIXTURES.iterdir() if FIXTURES.exists() else ():
            if old.is_dir():
                shutil.rmtree(old)
        shutil.copytree(out, FIXTURES, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
