"""A file of a small streaming recogniser with its tokens beside it, as `--listen FILE` takes it."""

from streamzoo.zoo.files import save

from ..zoo.small_speech import small, tokenizer


def small_file(folder):
    model, params = small()
    path = folder / "student.safetensors"
    save(path, params, {"model": "moonshine-live-tiny", "config": model.config})
    tokenizer(folder / "tokenizer.bin")
    return path
