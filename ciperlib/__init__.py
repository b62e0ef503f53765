"""ciperlib: train self-supervised encoders with known augmentations, and measure what they keep.

Four rooms in the order in which data flows: ``data -> learn -> analyse -> present``. Imports point back along that
line only, so ``data`` and ``learn`` (and ``analyse.probes``) run on a machine without any notebook package.
"""

__version__ = "0.1.0"
