"""The linear classifier, retrained (cRT) or fine-tuned from stage 1 [cRT §4.1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featbank.settings import Setting
from stage2.methods.heads.interface import (
    Batch,
    Context,
    Parameters,
    Settings,
    TrainedHead,
    fresh_linear,
    project,
    stage1_linear,
    weight_gradient,
)


class Linear(TrainedHead):
    """z = Wx + b."""

    description = "linear classifier, fresh (cRT) or from stage 1"
    source = "crt"
    settings = (
        Setting("init", "fresh", "fresh U(±1/√D) or the stage-1 W₀", choices=("fresh", "stage1")),
    )

    def init(self, settings: Sequence[Settings], context: Context) -> Parameters:
        parameters = fresh_linear(settings, context)
        from_stage1 = torch.tensor([s["init"] == "stage1" for s in settings])
        if from_stage1.any():
            stage1 = stage1_linear(int(from_stage1.sum()), context)
            for name, values in parameters.items():
                values[from_stage1.to(values.device)] = stage1[name]
        return parameters

    def logits(self, parameters: Parameters, batch: Batch) -> Tensor:
        return project(batch.x, parameters["weight"], parameters["bias"])

    def gradients(self, parameters: Parameters, batch: Batch, grad: Tensor) -> Parameters:
        return {"weight": weight_gradient(grad, batch.x), "bias": grad.sum(0)}
