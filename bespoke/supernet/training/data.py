"""Images for training, calibration and evaluation, from an image folder.

A folder is ``ROOT/train/<class>/<image>`` and ``ROOT/val/<class>/<image>``. Images are decoded once
and kept as 8-bit squares in one array, so that an epoch costs no JPEG decoding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from bespoke.supernet.errors import FileInvalid
from bespoke.supernet.zoo import MEAN, STD

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp"}
CROP_SHARE = 0.875


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        images_NHWC: 8-bit RGB, shape (N, side, side, 3).
        labels_N: Class indices.
        classes: Names of the classes, in index order.
        skipped: Files that could not be read.
    """

    images_NHWC: Tensor
    labels_N: Tensor
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels_N)

    def subset(self, indices: np.ndarray) -> ImageSet:
        """The images at these indices."""
        at = torch.as_tensor(indices)
        return ImageSet(self.images_NHWC[at], self.labels_N[at], self.classes, self.skipped)

    def split(self, held_out: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Hold images out at random: (the rest, the held-out ones)."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(order[held_out:]), self.subset(order[:held_out])


def read_split(root: Path, split: str, side: int = 160, cache: Path | None = None) -> ImageSet:
    """Read ``root/split`` into memory, each image's shorter side scaled to ``side``, centre cropped.

    Args:
        root: The image folder.
        split: Its sub-folder, e.g. ``train``.
        side: Side of the kept squares in pixels.
        cache: A folder to keep the decoded array in; None decodes every time.

    Raises:
        FileInvalid: There is no such folder, or it holds no readable image.
    """
    folder = root / split
    if not folder.is_dir():
        raise FileInvalid(folder, "no such folder; expected ROOT/train/<class>/*.JPEG and ROOT/val/...")
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir()))
    paths = [p for c in classes for p in sorted((folder / c).iterdir()) if p.suffix.lower() in SUFFIXES]
    if not paths:
        raise FileInvalid(folder, f"no image in any class folder; read suffixes: {sorted(SUFFIXES)}")
    listing = "\n".join(f"{p.relative_to(root)} {p.stat().st_size}" for p in paths)
    digest = hashlib.sha256(f"{side}\n{listing}".encode()).hexdigest()[:16]
    kept = cache / f"{split}-{side}-{digest}.npz" if cache else None
    if kept and kept.exists():
        with np.load(kept) as pack:
            images, good = pack["images"], pack["good"]
    else:
        with ThreadPoolExecutor() as pool:
            decoded = list(pool.map(lambda path: _decode(path, side), paths))
        good = np.array([image is not None for image in decoded])
        if not good.any():
            raise FileInvalid(folder, "not one image could be decoded")
        images = np.stack([image for image in decoded if image is not None])
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial.npz")
            np.savez(partial, images=images, good=good)
            partial.rename(kept)
    labels = np.array([classes.index(p.parent.name) for p in paths])[good]
    skipped = tuple(str(p) for p, ok in zip(paths, good, strict=True) if not ok)
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), classes, skipped)


def _decode(path: Path, side: int) -> np.ndarray | None:
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (UnidentifiedImageError, OSError):
        return None
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def normalised(x_NHWC: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """8-bit NHWC images as normalised floats of shape (N, 3, H, W), channels last in memory."""
    x_NCHW = x_NHWC.to(device).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return x_NCHW.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def evaluation_batches(
    images: ImageSet, resolution: int, batch: int = 256, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images scaled to ``resolution`` / 0.875 and centre cropped, with their labels."""
    scaled = math.ceil(resolution / CROP_SHARE)
    start = (scaled - resolution) // 2
    for x_NHWC, labels_N in zip(images.images_NHWC.split(batch), images.labels_N.split(batch), strict=True):
        x_NCHW = x_NHWC.permute(0, 3, 1, 2)
        x_NCHW = F.interpolate(x_NCHW, (scaled, scaled), mode="bilinear", antialias=True)
        x_NCHW = x_NCHW[:, :, start : start + resolution, start : start + resolution]
        yield normalised(x_NCHW.permute(0, 2, 3, 1), device), labels_N.to(device)


def augmented(
    x_NHWC: Tensor, resolution: int, rng: np.random.Generator, smallest_area: float = 0.25
) -> Tensor:
    """Random resized crops and flips, 8-bit NHWC in and out, at the given resolution.

    Args:
        x_NHWC: A batch of squares.
        resolution: Side of the crops after scaling.
        rng: Where the crops come from.
        smallest_area: Smallest share of the image that a crop covers.
    """
    side = x_NHWC.shape[1]
    crops = []
    for image_HWC in x_NHWC:
        area = side**2 * rng.uniform(smallest_area, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        width = min(side, round(math.sqrt(area * ratio)))
        height = min(side, round(math.sqrt(area / ratio)))
        top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
        crop = image_HWC[top : top + height, left : left + width].permute(2, 0, 1)[None]
        crop = F.interpolate(crop, (resolution, resolution), mode="bilinear", antialias=True)
        crops.append(crop.flip(3) if rng.random() < 0.5 else crop)
    return torch.cat(crops).permute(0, 2, 3, 1)


def training_batch(
    images: ImageSet, batch: int, step: int, seed: int
) -> tuple[Tensor, Tensor, np.random.Generator]:
    """The images of one training step: 8-bit NHWC, labels, and the step's own randomness.

    Everything is a function of (seed, step), so that a resumed run sees what an unbroken one sees.
    """
    epoch, position = divmod(step, max(1, len(images) // batch))
    order = np.random.default_rng([seed, 1, epoch]).permutation(len(images))
    at = torch.from_numpy(order[position * batch : (position + 1) * batch])
    return images.images_NHWC[at], images.labels_N[at], np.random.default_rng([seed, 2, step])
