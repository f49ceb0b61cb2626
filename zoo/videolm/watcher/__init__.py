"""Language models that see, frame by frame: SmolVLM2, Qwen2.5-VL, Qwen3-VL, LLaVA-OneVision."""

NAMES = ("smolvlm2-*", "qwen2.5-vl-*", "qwen3-vl-*", "llava-onevision-*")
