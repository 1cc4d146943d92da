"""Extraction: its overhead over the bare forward passes, and that of the usual ways.

Claim: with two views from one decoding pass, extraction to a checksummed, resumable bank takes at
most 10 % longer than the bare forward passes of both views on a CPU; a GPU is busy for at least
90 % of the time. docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_extract.py [--backbone resnet32] [--size 32] [--images 2048]
        [--files FOLDER] [--device auto] [--threads 2] [--workers 2] [--repeats 3]

The variants alternate, and overheads are within a repeat:

- bare: the model under each view's BatchNorm statistics on prepared batches; no files.
- featbank: `stage1.extraction.assemble.compute` from image files to a bank, both views, with the
  balanced statistics computed beforehand. ``memory`` starts from images in memory, like CIFAR.
- loader: a DataLoader with worker processes (PIL, ToTensor, Normalize), then np.save; one run per
  view.
- batch-wise: as in thingsvision: a DataLoader, a forward pass with a hook on the layer, each batch
  appended to a list as NumPy, np.vstack and save; one run per view.

Images are random, smoothed so that JPEG files (--size above 64) have a typical size; up to 64
pixels they are PNG files. `--files` uses the images of a folder instead.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import alternate
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from featbank.bank import BankWriter
from featbank.bank.shards import Shards
from featbank.devices import find_device
from stage1.augment import normalise
from stage1.backbones import Backbone, build_backbone
from stage1.data.decoder import Decoder
from stage1.data.entries import ListEntry
from stage1.data.images import DatasetSettings, ImageDataset, Images, Preprocessing, Split
from stage1.data.streaming import StreamedImages
from stage1.extraction.assemble import BankRows, Extraction, compute
from stage1.inference.batchnorm import batchnorm_statistics
from stage1.inference.evaluate import BATCH
from stage1.inference.options import VIEWS, FeatureOptions
from stage1.processes.distributed import ProcessGroup
from stage1.processes.repeatable import repeatable

MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
PREPROCESSING = Preprocessing(
    tuple(255 * m for m in MEAN), tuple(255 * s for s in STD), pad=4, flip=True
)


def main() -> None:
    """Print images per second and overhead over the bare forward passes of all variants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--files", type=Path, help="folder of image files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = find_device(options.device)
    torch.manual_seed(0)
    models = {
        view: build_backbone(options.backbone, in_channels=3, num_classes=100).to(device).eval()
        for view in VIEWS
    }
    with tempfile.TemporaryDirectory() as name, repeatable():
        folder = Path(name)
        files = find_files(options.files, options.images) or write_files(
            folder, options.images, options.size
        )
        entries = [ListEntry(str(file), 0, "") for file in files]
        decoder = Decoder.for_images(entries, folder, image_size=options.size)
        streamed = StreamedImages(entries, decoder)
        held, _ = decoder.images(entries)
        runs: dict[str, Callable[[], None]] = {
            "bare": lambda: bare(models, held, device),
            "featbank": lambda: ours(models, streamed, folder, device),
            "memory": lambda: ours(models, held, folder, device),
            "loader": lambda: usual(models["instance"], files, folder, options, hook=False),
            "batch-wise": lambda: usual(models["instance"], files, folder, options, hook=True),
        }
        print(
            f"{options.backbone}, {len(files)} images of {options.size}×{options.size} on "
            f"{device}, {options.threads} threads, {options.workers} workers"
        )
        seconds = alternate(runs, options.repeats)
    report(seconds, len(files))


def report(seconds: dict[str, list[float]], images: int) -> None:
    """Print medians over the repeats; a single view is compared with half of the bare time."""
    print(f"{'':18}{'images/s':>9}{'overhead':>11}   (range)")
    for name, times in seconds.items():
        per_view = name in ("loader", "batch-wise")
        for views in (1, 2) if per_view else (2,):
            total = [time * views if per_view else time for time in times]
            overhead = [
                100 * (time / (bare * views / 2) - 1)
                for time, bare in zip(total, seconds["bare"], strict=True)
            ]
            print(
                f"{name + (', 1 view' if views == 1 else ', 2 views'):18}"
                f"{images / statistics.median(total):9,.0f}{statistics.median(overhead):10.1f} %"
                f"   ({min(overhead):.1f} … {max(overhead):.1f})"
            )


def find_files(folder: Path | None, images: int) -> list[Path]:
    """The first `images` image files of a folder."""
    if folder is None:
        return []
    suffixes = (".png", ".jpg", ".jpeg", ".webp")
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in suffixes)[:images]


def write_files(folder: Path, images: int, size: int) -> list[Path]:
    """Write random images: PNG files up to 64 pixels, JPEG above."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(images):
        rough = Image.fromarray(rng.integers(0, 256, (size // 4, size // 4, 3), np.uint8))
        files.append(folder / f"{i}.{'png' if size <= 64 else 'jpg'}")
        rough.resize((size, size), Image.Resampling.BICUBIC).save(files[-1])
    return files


@torch.inference_mode()
def bare(models: dict[str, Backbone], images: torch.Tensor, device: torch.device) -> None:
    """Both forward passes of batches that are already normalised and on the device."""
    ready = [normalise(batch.to(device), PREPROCESSING) for batch in images[:BATCH].split(BATCH)]
    for batch in images.split(BATCH):
        for model in models.values():
            model.features(ready[0][: len(batch)])
    if device.type == "cuda":
        torch.cuda.synchronize()


def ours(models: dict[str, Backbone], images: Images, folder: Path, device: torch.device) -> None:
    """Extract images to a bank, with its shards."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    split = Split(images, labels, np.arange(len(images)))
    names = tuple(map(str, range(100)))
    dataset = ImageDataset(DatasetSettings("lists"), {"train": split}, names, PREPROCESSING)
    choices = FeatureOptions(VIEWS, "float32", 0, 64, 0, 4096)
    work = Extraction(dataset, models["instance"], PREPROCESSING, choices)
    with BankWriter(folder / "bank.h5", names, dim=work.model.dim, overwrite=True) as writer:
        shards = Shards(writer.path, {})
        compute(
            work,
            shards,
            models,
            group=ProcessGroup(0, 1, device),
            bank=BankRows(work, writer),
            report=lambda line: None,
            progress=lambda done, total: None,
        )
        for view, model in models.items():
            writer.batchnorm(view, batchnorm_statistics(model))
    shards.remove()


class _Files(Dataset):
    """Image files through torchvision's transforms, one by one."""

    def __init__(self, files: list[Path], size: int) -> None:
        from torchvision import transforms

        self.files = files
        self.transform = transforms.Compose(
            [transforms.Resize(size), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.files[row]) as image:
            return self.transform(image.convert("RGB"))


@torch.inference_mode()
def usual(
    model: Backbone, files: list[Path], folder: Path, options: argparse.Namespace, *, hook: bool
) -> None:
    """A DataLoader loop over one view; with `hook`, the features come from a hook on the layer."""
    device = model.device
    loader = DataLoader(
        _Files(files, options.size),
        BATCH,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
    )
    taken: list[np.ndarray] = []
    if hook:
        layer = model.classifier
        handle = layer.register_forward_pre_hook(
            lambda _, inputs: taken.append(inputs[0].cpu().numpy())
        )
        for x in loader:
            model(x.to(device))
        handle.remove()
    else:
        for x in loader:
            taken.append(model.features(x.to(device, non_blocking=True)).cpu().numpy())
    np.save(folder / "features.npy", np.vstack(taken))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
