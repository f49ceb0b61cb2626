"""Whisper: a recogniser of windows of 30 s; CarelessWhisper: its encoder as a stream."""

NAMES = ("whisper-*", "carelesswhisper-*")
