"""Engines that others made for published weights of speech: audio -> numbers of its best tokens."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

RATE = 16_000


class Moonshine:
    """ONNX Runtime over the published encoder and decoder.

    Args:
      folder: of ``encoder_model.ort`` and ``decoder_model_merged.ort``.
    """

    says = "ONNX Runtime over the same published files (8-bit weights, products in float32)"

    def __init__(self, folder: Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        make = lambda name: onnxruntime.InferenceSession(str(folder / name), options)
        self.encoder, self.decoder = make("encoder_model.ort"), make("decoder_model_merged.ort")
        self.names = [i.name for i in self.decoder.get_inputs()]
        self.shapes = {i.name: i.shape for i in self.decoder.get_inputs()}

    def __call__(self, audio: np.ndarray, limit: int) -> list[int]:
        heard = self.encoder.run(None, {self.encoder.get_inputs()[0].name: audio[None]})[0]
        heads, width = self.shapes["past_key_values.0.decoder.key"][1::2]
        past: dict[str, Any] = {
            n: np.zeros((1, heads, 0, width), np.float32) for n in self.names if "past" in n
        }
        tokens, made = [1], self.decoder.get_outputs()
        for step in range(limit):
            given = {
                "input_ids": np.array([tokens[-1:]], np.int64),
                "encoder_hidden_states": heard,
                "use_cache_branch": np.array([step > 0]),
                **past,
            }
            found: Any = self.decoder.run(None, {n: given[n] for n in self.names})
            tokens.append(int(found[0][0, -1].argmax()))
            if tokens[-1] == 2:
                break
            for output, value in zip(made[1:], found[1:], strict=True):
                name = output.name.replace("present", "past_key_values")
                if step == 0 or "decoder" in name:  # what was heard stays
                    past[name] = value
        return [t for t in tokens[1:] if t != 2]


class Whisper:
    """CTranslate2 over its own file, the best token after the other.

    ``pip install ctranslate2==4.8.5``; the features are those of transformers, in NumPy.

    Args:
      folder: of ``model.bin`` and its ``config.json``.
      prompt: the tokens that a text begins with.
      precision: "float32" or "int8", as CTranslate2 calls them.
    """

    def __init__(self, folder: Path, prompt: tuple[int, ...], precision: str):
        from transformers import WhisperFeatureExtractor

        ctranslate2: Any = importlib.import_module("ctranslate2")  # of this bench alone

        self.says = f"CTranslate2 in {precision} over the same published file"
        self.storage, self.prompt = ctranslate2.StorageView, list(prompt)
        self.model = ctranslate2.models.Whisper(
            str(folder), device="cpu", compute_type=precision, intra_threads=1, inter_threads=1
        )
        self.features = WhisperFeatureExtractor()

    def __call__(self, audio: np.ndarray, limit: int) -> list[int]:
        found = self.features(audio, sampling_rate=RATE, return_tensors="np")["input_features"]
        heard = self.storage.from_array(np.ascontiguousarray(found, np.float32))
        # half of max_length is the most that is said
        (said,) = self.model.generate(heard, [self.prompt], beam_size=1, max_length=2 * limit)
        return said.sequences_ids[0]
