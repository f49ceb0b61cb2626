"""The synthetic persons as a tensorflow-datasets builder with ArrayRecord files.

Built and read without TensorFlow::

    python -m streamzoo.train.data.synth_tfds --out data/synth --videos 256

``builder.py`` is the builder, for :func:`tensorflow_datasets.load` as for :func:`build`;
:class:`SynthRecords` reads what was built. Needs the extra ``tfds``.
"""

from .records import SynthRecords, build

__all__ = ["SynthRecords", "build"]
