"""Images for training, calibration and evaluation, from an image folder or CIFAR's official files.

Images are decoded once and kept as 8-bit squares in one array, in memory or in a file that is mapped
into it, so that an epoch costs no JPEG decoding.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from bespoke.supernet.errors import FileInvalid, Unavailable
from bespoke.supernet.training.augmentation import SMALLEST_AREA, draw_crops, resampled
from bespoke.supernet.training.cifar import cifar_folder, read_cifar
from bespoke.supernet.training.folders import list_split
from bespoke.supernet.training.processes import Group
from bespoke.supernet.training.sides import CROP_SHARE, SIDE
from bespoke.supernet.whole_files import replacing
from bespoke.supernet.zoo import MEAN, STD

try:
    import fcntl
except ImportError:  # On Windows, where files that are open cannot be removed anyway.
    fcntl = None  # type: ignore[assignment]

DECODER = 2
"""Goes up when files are decoded to other pixels than before: what an older one kept is made again."""

_LONGEST = 8
"""Of an image's longer side to its shorter one, when it is scaled: more of it would be cropped anyway."""

_LOOKED_AT = 64
"""Images whose pixels tell a set from another one."""

_DECODED_AT_ONCE = 64
"""Images that a thread takes at a time: a million tasks would take memory of their own."""

_OF_THE_MACHINE = {
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY),
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.EHOSTUNREACH),
}
"""Errors that say nothing of an image: too many open files, a disk or a server that fails. An image left out
for them would be left out of the next training, too."""

_YOUNG_S = 60.0
"""A file that is being made may not be locked yet."""

T = TypeVar("T")
Choose = Callable[[int], NDArray[np.integer]]


@dataclass(frozen=True)
class ImageSet:
    """Labelled images of one size.

    Attributes:
        stored_NHWC: 8-bit RGB, shape (M, side, side, 3), M >= N; possibly a file mapped into memory.
        labels_N: Class indices.
        classes: Names of the classes, in index order.
        skipped: Files that could not be read, and what else stands in the folders of classes.
        rows_N: Where each image stands in ``stored_NHWC``; in order where there is none.
    """

    stored_NHWC: Tensor
    labels_N: Tensor
    classes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    rows_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def side(self) -> int:
        """Side of the squares in pixels."""
        return self.stored_NHWC.shape[1]

    @cached_property
    def digest(self) -> str:
        """sha256 of the classes, all labels and some of the pixels, in hex: other images have another."""
        digest = hashlib.sha256("\n".join(self.classes).encode(errors="surrogateescape"))
        digest.update(self.labels_N.numpy().tobytes())
        for at in np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).round().astype(np.intp)).tolist():
            digest.update(self.pixels(slice(at, at + 1)).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def pixels(self, at: Tensor | slice = slice(None)) -> Tensor:
        """The images at these indices, or all of them, 8-bit NHWC."""
        return self.stored_NHWC[at if self.rows_N is None else self.rows_N[at]]

    def subset(self, indices: NDArray[np.integer]) -> ImageSet:
        """The images at these indices; pixels are not copied."""
        at = torch.as_tensor(indices)
        rows_N = at if self.rows_N is None else self.rows_N[at]
        return replace(self, labels_N=self.labels_N[at], rows_N=rows_N)

    def split(self, held_out: int, seed: int = 0) -> tuple[ImageSet, ImageSet]:
        """Hold images out at random: (the rest, the held-out ones)."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self.subset(order[held_out:]), self.subset(order[:held_out])


def read_split(
    root: Path, split: str, side: int = SIDE, cache: Path | None = None, *, choose: Choose | None = None
) -> ImageSet:
    """Read the training or validation images, each one's shorter side scaled to ``side``, centre cropped.

    CIFAR's images keep their 32 pixels. Layouts: see ``folders.py`` and ``cifar.py``.

    Args:
        root: The image folder.
        split: ``train`` or ``val``.
        side: Side of the kept squares in pixels.
        cache: A folder to keep the decoded array in, mapped into memory instead of loaded; None
            decodes every time.
        choose: Which of so many images to read, by number; all of them unless given.

    Raises:
        FileInvalid: There is no such folder, or it holds no readable image.
    """
    cifar = cifar_folder(root)
    if cifar is not None:
        tiny, known, classes = read_cifar(cifar, split)
        every = ImageSet(torch.from_numpy(tiny), torch.from_numpy(known), classes)
        return every if choose is None else every.subset(choose(len(every)))
    listing = list_split(root, split)
    if choose is not None:
        listing = listing.subset(choose(len(listing.paths)).tolist())
    listed = "\n".join(f"{p.relative_to(root)} {_state(p)}" for p in listing.paths)
    key = f"{DECODER}\n{side}\n{root.resolve()}\n{listed}"
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:16]
    kept = cache / f"{split}-{side}-{digest}.npy" if cache else None
    if kept is None:
        images = np.empty((len(listing.paths), side, side, 3), np.uint8)
        good = decode_into(images, listing.paths)
    else:
        _remove_abandoned(kept.parent)
        if not kept.exists():
            _decode_to_file(kept, listing.paths, side)
        images, good = np.load(kept, mmap_mode="r"), np.load(kept.with_suffix(".good.npy"))
    if not good.any():
        raise FileInvalid(root, f"not one of {len(good)} images could be decoded")
    labels = torch.tensor(listing.labels)[torch.from_numpy(good)]
    unread = (p for p, ok in zip(listing.paths, good, strict=True) if not ok)
    skipped = tuple(map(str, (*listing.passed_over, *unread)))
    rows = None if good.all() else torch.from_numpy(np.flatnonzero(good))
    return ImageSet(_as_tensor(images), labels, listing.classes, skipped, rows)


def evenly(count: int) -> Choose:
    """So many images at most, of all classes alike: they are listed class by class."""
    return lambda length: np.unique(np.linspace(0, length - 1, count).round().astype(np.intp))


def _as_tensor(images_NHWC: NDArray[np.uint8]) -> Tensor:
    """The same memory; nobody writes to images, so it may be a file that is mapped for reading."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images_NHWC)


def _state(path: Path) -> str:
    """Size and time of a file, other ones when it is replaced; of none, such as behind a dead link, -1."""
    try:
        state = path.stat()
    except OSError:
        return "-1"
    return f"{state.st_size} {state.st_mtime_ns}"


def read_splits(root: Path, side: int, cache: Path, group: Group) -> tuple[ImageSet, ImageSet]:
    """Read what a network is trained and judged on; of several processes, one decodes and all map its files.

    Raises:
        FileInvalid: See ``read_split``; or there are fewer than two classes, or one without an image that
            can be read.
    """
    if cifar_folder(root) is None and len(classes := list_split(root, "train").classes) < 2:
        raise FileInvalid(
            root,
            f"got one class, {classes[0]!r}; expected two or more: ROOT/train/<class>/* or ROOT/<class>/*",
        )
    if not group.leads:
        group.wait()
    training, validation = read_split(root, "train", side, cache), read_split(root, "val", side, cache)
    if group.leads:
        group.wait()
    of_class = torch.bincount(training.labels_N, minlength=len(training.classes)).tolist()
    unread = [name for name, count in zip(training.classes, of_class, strict=True) if not count]
    if unread:
        raise FileInvalid(
            root,
            f"no training image can be read of the classes {unread}; replace them, or remove their folders",
        )
    return training, validation


def decode_into(
    images_NHWC: NDArray[np.uint8], paths: tuple[Path, ...], threads: int | None = None
) -> NDArray[np.bool_]:
    """Decode images into an array of squares; returns which ones could be read, shape (N,)."""

    def decode(start: int) -> list[bool]:
        numbers = range(start, min(start + _DECODED_AT_ONCE, len(paths)))
        return [_decode(paths[number], images_NHWC[number]) for number in numbers]

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        parts = pool.map(decode, range(0, len(paths), _DECODED_AT_ONCE))
        return np.fromiter(itertools.chain.from_iterable(parts), np.bool_, len(paths))


def _decode_to_file(kept: Path, paths: tuple[Path, ...], side: int) -> None:
    with replacing(kept) as partial, partial.open("rb") as held:
        _lock(held)
        _reserve(partial, len(paths) * side * side * 3)
        images = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(paths), side, side, 3))
        good = decode_into(images, paths)
        images.flush()
        # The larger file is moved last: where it stands, both are whole, also while another process
        # decodes the same images.
        with replacing(kept.with_suffix(".good.npy")) as told, told.open("wb") as file:
            np.save(file, good)


def _remove_abandoned(cache: Path) -> None:
    """Remove what processes were killed in the middle of decoding: nobody holds its lock."""
    for left in cache.glob(".*.npy.*"):
        with suppress(OSError), left.open("rb") as held:
            _lock(held)
            if time.time() - os.fstat(held.fileno()).st_ctime > _YOUNG_S:
                left.unlink()


def _lock(file: BinaryIO) -> None:
    """Hold a file's lock until it is closed; an ``OSError`` where another process does."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _reserve(path: Path, size: int) -> None:
    """See that so many bytes fit where the file lies: a mapped file on a full disk ends the process."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise Unavailable(
            f"{path.parent}: the decoded images take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; "
            "make room, or give another folder (--run or --cache) or a smaller --side"
        )


def _decode(path: Path, square_HWC: NDArray[np.uint8]) -> bool:
    side = len(square_HWC)
    try:
        with Image.open(path) as file:
            # A JPEG of more than four times the size is decoded at a half, a quarter or an eighth.
            file.draft("RGB", (4 * side, 4 * side))
            file.load()
            image = _rgb(_upright(file))
    except MemoryError:
        raise
    except Exception as error:  # Damaged files fail in as many ways as there are decoders; each is named.
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise Unavailable(
                f"{path} cannot be read now ({error}); run it again, or remove the file"
            ) from error
        return False
    image = _centre(image, _LONGEST * min(image.size))
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    square_HWC[:] = np.asarray(image.crop((left, top, left + side, top + side)))
    return True


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; where they cannot be read, as it is."""
    with suppress(Exception):  # Damaged EXIF data fail in many ways, and the pixels are there.
        return ImageOps.exif_transpose(image)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB: 16-bit grey is scaled, what is transparent lies on white.

    Raises:
        ValueError: Its pixels have no largest value to scale by.
    """
    if image.mode.startswith("I"):  # Pillow before 11 opens 16-bit grey with 32 bits.
        grey_HW = np.asarray(image)
        if grey_HW.min() < 0 or grey_HW.max() > 65535:
            raise ValueError("32-bit grey")
        return Image.fromarray((grey_HW // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point grey")
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    opaque = Image.new("RGB", image.size, "white")
    opaque.paste(image, mask=image)
    return opaque


def _centre(image: Image.Image, longest: int) -> Image.Image:
    """The middle of an image of which a side is longer than that."""
    if max(image.size) <= longest:
        return image
    width, height = (min(length, longest) for length in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def normalised(x_NHWC: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """8-bit NHWC images as normalised floats of shape (N, 3, H, W), channels last in memory."""
    x_NCHW = x_NHWC.to(device).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return x_NCHW.sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class View:
    """How an image is looked at when top-1 is measured.

    Attributes:
        top: Where the crop lies between the upper edge (0) and the lower one (1).
        left: Where it lies between the left edge (0) and the right one (1).
        mirrored: Whether it is mirrored.
    """

    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False


def evaluation_pixels(
    images: ImageSet, resolution: int, batch: int = 256, view: View | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images scaled to ``resolution`` / 0.875 and cropped, 8-bit NHWC, with their labels.

    Args:
        images: Squares.
        resolution: Side of the crops in pixels.
        batch: Images at a time.
        view: Which crop; the one in the centre unless given.
    """
    view, scaled = view or View(), math.ceil(resolution / CROP_SHARE)
    top, left = (int((scaled - resolution) * share) for share in (view.top, view.left))
    for at in torch.arange(len(images)).split(batch):
        x_NCHW = images.pixels(at).permute(0, 3, 1, 2)
        x_NCHW = F.interpolate(x_NCHW, (scaled, scaled), mode="bilinear", antialias=True)
        x_NCHW = x_NCHW[:, :, top : top + resolution, left : left + resolution]
        x_NCHW = x_NCHW.flip(3) if view.mirrored else x_NCHW
        yield x_NCHW.permute(0, 2, 3, 1).contiguous(), images.labels_N[at]


def augmented(
    x_NHWC: Tensor, resolution: int, rng: np.random.Generator, smallest_area: float = SMALLEST_AREA
) -> Tensor:
    """Random resized crops and flips, 8-bit NHWC in and out, at the given resolution.

    Args:
        x_NHWC: A batch of squares.
        resolution: Side of the crops after scaling.
        rng: Where the crops come from.
        smallest_area: Smallest share of the image that a crop covers.
    """
    return resampled(x_NHWC, draw_crops(len(x_NHWC), x_NHWC.shape[1], rng, smallest_area), resolution)


def batch_indices(count: int, batch: int, step: int, seed: int) -> Tensor:
    """Which of ``count`` images a training step shows: a function of (seed, step)."""
    epoch, position = divmod(step, max(1, count // batch))
    order = _epoch_order(count, epoch, seed)
    return torch.from_numpy(order[position * batch : (position + 1) * batch])


@lru_cache(maxsize=2)
def _epoch_order(count: int, epoch: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, 1, epoch]).permutation(count)


def step_rng(step: int, seed: int) -> np.random.Generator:
    """All other randomness of a training step: a function of (seed, step)."""
    return np.random.default_rng([seed, 2, step])


def training_batch(
    images: ImageSet, batch: int, step: int, seed: int
) -> tuple[Tensor, Tensor, np.random.Generator]:
    """The images of one training step: 8-bit NHWC, labels, and the step's own randomness.

    Everything is a function of (seed, step), so that a resumed run sees what an unbroken one sees.
    """
    at = batch_indices(len(images), batch, step, seed)
    return images.pixels(at), images.labels_N[at], step_rng(step, seed)


def prefetched(make: Callable[[int], T], numbers: range, ahead: int = 2) -> Iterator[T]:
    """``make`` of each number, a few of them made in a thread while the caller works."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(make, number) for number in numbers[:ahead]]
        for number in numbers:
            made = waiting.pop(0).result()
            if number + ahead * numbers.step in numbers:
                waiting.append(pool.submit(make, number + ahead * numbers.step))
            yield made
