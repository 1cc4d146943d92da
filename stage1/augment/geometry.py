"""Geometry of a batch: crops, mirrors, affine maps and holes, one choice per image."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


def pad_crop_flip(
    images: torch.Tensor, pad: int, *, flip: bool, generator: torch.Generator
) -> torch.Tensor:
    """Pad with black, crop back at a random place, and mirror with probability ½ if `flip`.

    Places are drawn per image. The whole batch is one gather: output pixel (i, j) of image b is
    padded pixel (i + dy_b, j + dx_b), with j running backwards where b is mirrored.

    Parameters
    ----------
    images
        [B, C, H, W] of any type.
    pad
        Pixels ≥ 0 on each side.
    generator
        On the device of the images.

    Returns
    -------
    [B, C, H, W] of the same type
    """
    B, C, H, W = images.shape
    device = images.device
    dy, dx = torch.randint(2 * pad + 1, (2, B, 1), generator=generator, device=device)
    rows = dy + torch.arange(H, device=device)  # [B, H]
    columns = dx + torch.arange(W, device=device)  # [B, W]
    if flip:
        mirrored = torch.rand(B, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (pad, pad, pad, pad))
    image = torch.arange(B, device=device).view(B, 1, 1, 1)
    channel = torch.arange(C, device=device).view(1, C, 1, 1)
    return padded[image, channel, rows.view(B, 1, H, 1), columns.view(B, 1, 1, W)]


def draw_holes(images: torch.Tensor, side: int, *, generator: torch.Generator) -> torch.Tensor:
    """Draw the square each image loses to Cutout [DeVries & Taylor 2017].

    The centre is uniform over the pixels, so that squares are clipped at the border. It is the
    pixel right of and below the middle where `side` is even, as in the authors' code.

    Parameters
    ----------
    images
        [B, C, H, W].
    side
        Pixels ≥ 1.

    Returns
    -------
    [B, 1, H, W] bool, true inside the square
    """
    B, _, H, W = images.shape
    device = images.device
    inside = []
    for length in (H, W):
        centre = torch.randint(length, (B, 1), generator=generator, device=device)
        place = torch.arange(length, device=device) - centre + side // 2
        inside.append((place >= 0) & (place < side))  # [B, length]
    rows, columns = inside
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def draw_boxes(
    size: tuple[int, int],
    count: int,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator,
) -> torch.Tensor:
    """Draw crops as torchvision's RandomResizedCrop does, for many images at once.

    Each image has ten tries at an area, a uniform share of the image, and an aspect ratio,
    log-uniform. It takes the first that fits, else the largest central crop within `ratio`.

    Parameters
    ----------
    size
        (H, W) of the images.
    count
        Number B of images.
    scale
        Least and greatest share of the area, in (0, 1].
    ratio
        Least and greatest width / height.

    Returns
    -------
    [B, 4] int64: top, left, height, width in pixels
    """
    H, W = size
    device = generator.device
    tries = (count, 10)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    area = H * W * torch.empty(tries, device=device).uniform_(*scale, generator=generator)
    aspect = torch.empty(tries, device=device).uniform_(low, high, generator=generator).exp()
    height = (area / aspect).sqrt().round().long()
    width = (area * aspect).sqrt().round().long()
    fits = (height >= 1) & (height <= H) & (width >= 1) & (width <= W)
    first = fits.int().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    height = torch.where(any_fits, height.gather(1, first)[:, 0], min(H, round(W / ratio[0])))
    width = torch.where(any_fits, width.gather(1, first)[:, 0], min(W, round(H * ratio[1])))
    place = torch.rand(2, count, generator=generator, device=device)
    top = torch.where(any_fits, (place[0] * (H - height + 1)).long(), (H - height) // 2)
    left = torch.where(any_fits, (place[1] * (W - width + 1)).long(), (W - width) // 2)
    return torch.stack([top, left, height, width], 1)


def crop_resize(images: torch.Tensor, boxes: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Cut each image to its box, scale the crop back to H × W, and mirror it if `mirrored`.

    Bilinear, pixel centres at ½, the border of the box repeated: the result of torchvision's
    `resized_crop` where nothing shrinks, as here, but not rounded to whole grey levels.

    Parameters
    ----------
    images
        [B, C, H, W] uint8 or float32.
    boxes
        [B, 4] of `draw_boxes`.
    mirrored
        [B] bool.

    Returns
    -------
    [B, C, H, W] float32
    """
    H, W = images.shape[2:]
    top, left, height, width = boxes[:, :, None].unbind(1)  # [B, 1] each
    rows = _centres(H, images.device) * height / H - 0.5
    rows = top + rows.clamp(min=0).minimum(height - 1)  # [B, H]
    columns = _centres(W, images.device) * width / W - 0.5
    columns = left + columns.clamp(min=0).minimum(width - 1)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)  # [B, W]
    # Pixel indices to grid_sample's −1…1 from edge to edge.
    y = ((2 * rows + 1) / H - 1)[:, :, None].expand(-1, H, W)
    x = ((2 * columns + 1) / W - 1)[:, None, :].expand(-1, H, W)
    grid = torch.stack([x, y], 3)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def affine(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Map each image by an affine map, nearest neighbour, black outside.

    Parameters
    ----------
    images
        [B, C, H, W] uint8.
    maps
        [B, 2, 3] float32 from the output (x, y, 1) to the input (x, y), in pixels from the middle.

    Returns
    -------
    [B, C, H, W] uint8
    """
    H, W = images.shape[2:]
    half = torch.tensor([W / 2, H / 2], device=images.device)
    # affine_grid counts in half widths and half heights: D⁻¹·M·D, D = diag(W/2, H/2, 1).
    theta = maps * torch.cat([half, half.new_ones(1)]) / half[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="nearest", align_corners=False)
    return moved.to(images.dtype)


def _centres(length: int, device: torch.device) -> torch.Tensor:
    return torch.arange(length, device=device) + 0.5
