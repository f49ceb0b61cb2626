"""Llama, Qwen2, Qwen3, SmolLM2 and SmolLM3: one decoder, five configurations."""

NAMES = ("llama3.2-*", "qwen2-*", "qwen2.5-*", "qwen3-*", "smollm2-*", "smollm3-*")
