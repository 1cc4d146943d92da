"""Forms of heads in closed form that are not affine in the features.

Axes: B rows, K classes, D features, Q principal components, M landmarks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import linear

from stage2.export.form import Allowed, Form
from stage2.methods.heads.kernel_ridge import KERNELS, kernels, prepared
from stage2.methods.heads.transforms import rank_empty_last


class Quadratic(Form):
    """z_k = b_k − ½‖A_k B(x − c) − o_k‖² with the components B [Q, D] and whitenings A [K, Q, Q].

    ``empty`` classes, if there are any, rank behind all others.
    """

    shapes: ClassVar[dict[str, str]] = {
        "center": "D", "basis": "QD", "whitening": "KQQ", "offset": "KQ", "bias": "K", "empty": "K",
    }  # fmt: skip
    constants: ClassVar[tuple[str, ...]] = ("empty",)
    center: Tensor
    basis: Tensor
    whitening: Tensor
    offset: Tensor
    bias: Tensor
    empty: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> None:
        super().__init__(tensors, options)
        self.some_empty = bool(self.empty.any())

    def classify(self, x: Tensor) -> Tensor:
        y = linear(x - self.center, self.basis)
        white = linear(y, self.whitening.flatten(0, 1), -self.offset.flatten())
        z = self.bias - white.unflatten(1, self.offset.shape).square().sum(2) / 2
        return rank_empty_last(z[:, None], self.empty[None])[:, 0] if self.some_empty else z


class Kernels(Form):
    """z = A·k(x) + b with the kernels of x and the ``landmarks`` [M, D], as they are compared."""

    shapes: ClassVar[dict[str, str]] = {
        "landmarks": "MD", "center": "D", "coefficients": "KM", "bias": "K",
        "width": "1", "degree": "1",
    }  # fmt: skip
    constants: ClassVar[tuple[str, ...]] = ("width", "degree")
    allowed: ClassVar[dict[str, Allowed]] = {"kernel": lambda value: value in KERNELS}
    landmarks: Tensor
    center: Tensor
    coefficients: Tensor
    bias: Tensor
    width: Tensor
    degree: Tensor

    def classify(self, x: Tensor) -> Tensor:
        kernel: str = self.options["kernel"]
        rows = prepared(x, self.center, kernel)
        k = kernels(rows, self.landmarks, kernel, self.width, self.degree)
        return linear(k, self.coefficients, self.bias)


CLOSED_FORMS: dict[str, type[Form]] = {"quadratic": Quadratic, "kernels": Kernels}
"""Every one of them by the name it has in a file."""
