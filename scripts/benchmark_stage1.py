"""Stage 1: training speed in images per second, against the usual loop over a DataLoader.

Claim: the same ResNet-32 with the same SGD processes more images per second when a data set of
CIFAR's size is kept on the device as bytes and augmented there in whole batches than when four
torchvision transforms (crop, mirror, to tensor, normalise) prepare each image in worker processes.
docs/performance.md has the figures.

    .venv/bin/python scripts/benchmark_stage1.py [--backbone resnet32] [--device auto]
        [--precision fp32] [--steps 20] [--repeats 5] [--workers 2] [--threads 2]

The two alternate, and ratios are within a repeat. The images are random; their content does not
matter for the time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time

import numpy as np
import torch
from measuring import spread
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from featbank.devices import find_device
from stage1.backbones import Backbone, build_backbone
from stage1.data.images import Preprocessing, Split
from stage1.training.fit import fit
from stage1.training.settings import TrainSettings, default_settings

K, BATCH = 100, 128
MEAN, STD = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)


def main() -> None:
    """Print images per second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of featbank")
    parser.add_argument("--steps", type=int, default=20, help="per measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = find_device(options.device)
    rng = np.random.default_rng(0)
    N = options.steps * BATCH
    images = rng.integers(0, 256, (N, 32, 32, 3), np.uint8)
    labels = rng.integers(0, K, N)
    settings = default_settings(
        "cifar100-lt",
        backbone=options.backbone,
        epochs=2,
        warmup=0,
        precision=options.precision,
        device=str(device),
    )
    model = build_backbone(settings.backbone, in_channels=3, num_classes=K).to(device)
    usual_model = build_backbone(settings.backbone, in_channels=3, num_classes=K).to(device)
    usual_model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    print(
        f"{settings.backbone} on {device}, {options.threads} threads, {options.precision}, "
        f"{options.steps} steps of {BATCH} images"
    )
    ratios = []
    for repeat in range(options.repeats):
        ours = featbank_rate(model, images, labels, settings)
        usual = usual_rate(usual_model, images, labels, workers=options.workers)
        ratios.append(ours / usual)
        print(
            f"{repeat + 1}: featbank {ours:,.0f} images/s, DataLoader {usual:,.0f} images/s, "
            f"{ours / usual:.2f} times"
        )
    print(f"featbank / DataLoader: {spread(ratios, 2)}, {options.repeats} repeats")


def featbank_rate(
    model: Backbone, images: np.ndarray, labels: np.ndarray, settings: TrainSettings
) -> float:
    """Images per second of the second epoch; the first warms up."""
    split = Split(
        torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels),
        np.arange(len(labels)),
    )
    pixels = [tuple(255 * value for value in moments) for moments in (MEAN, STD)]
    preprocessing = Preprocessing(*pixels, pad=4, flip=True)
    *_, epoch = fit(model, split, preprocessing, settings=settings)
    return len(labels) / epoch["seconds"]


class _Images(Dataset):
    """Images in memory, transformed one by one as in torchvision's CIFAR data sets."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        from torchvision import transforms

        self.images, self.labels = images, labels
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[row]), int(self.labels[row])


def usual_rate(model: Backbone, images: np.ndarray, labels: np.ndarray, *, workers: int) -> float:
    """Images per second of the second epoch of a DataLoader loop; the first warms up."""
    device = model.classifier.weight.device
    loader = DataLoader(
        _Images(images, labels),
        BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    model.train()
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for x, y in loader:
            loss = F.cross_entropy(
                model(x.to(device, non_blocking=True)), y.to(device, non_blocking=True)
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return len(labels) / seconds


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
