"""`htpo demo`: the laptop job, a small Qwen3 that learns countdown by a warm start and then by HTPO."""
