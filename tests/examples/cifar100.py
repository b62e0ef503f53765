"""CIFAR-100, as its authors publish it: one pickle a split, in cifar-100-python/."""

import pickle

import numpy as np
import torch

from ciperlib.data.imageset import DataError, ImageSet, data_root
from ciperlib.registry import datasets


class PlainUnpickler(pickle.Unpickler):
    """Opens what numpy arrays are made of, and nothing that could run anything else."""

    def find_class(self, module, name):
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an image file")


@datasets.register("cifar100", label="CIFAR-100", factors=("category", "superclass"))
def load(name, split, *, size=None, image_size=32, root=None):
    """50,000 training and 10,000 test images of 32x32; factors: category (100) and superclass (20)."""
    path = data_root(root) / "cifar-100-python" / split
    if image_size != 32 or not path.is_file():
        raise DataError(f"CIFAR-100 has images of 32x32 in {path}: get it from https://www.cs.toronto.edu/~kriz")
    with open(path, "rb") as file:
        content = PlainUnpickler(file, encoding="latin1").load()
    images = torch.from_numpy(np.asarray(content["data"], np.uint8).reshape(-1, 3, 32, 32))[:size]
    columns = {"category": "fine_labels", "superclass": "coarse_labels"}
    factors = {factor: torch.tensor(content[column])[:size] for factor, column in columns.items()}
    ids = torch.arange(len(images)) + (50_000 if split == "test" else 0)
    return ImageSet("cifar100", split, images, factors, ids, ids.clone())
