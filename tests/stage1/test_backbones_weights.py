"""Weights from a file, and training the last block alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featbank import errors
from stage1.backbones import Backbone, build_backbone, load_weights, read_weights
from stage1.data.datasets import load_dataset
from stage1.data.images import DatasetSettings
from stage1.training.checkpoint import load_checkpoint
from stage1.training.settings import default_settings
from stage1.training.train import fit, train


def _model(num_classes: int = 10, name: str = "resnet8") -> Backbone:
    return build_backbone(name, in_channels=1, num_classes=num_classes)


def _saved(path: Path, document: Any) -> Path:
    torch.save(document, path)
    return path


@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_is_found(nest: tuple[str, ...], prefix: str, tmp_path: Path) -> None:
    """Reference: the model that was saved, tensor by tensor."""
    source, model = _model(), _model()
    document: Any = {prefix + name: tensor for name, tensor in source.state_dict().items()}
    for key in nest:
        document = {key: document, "epoch": 3}
    load_weights(model, read_weights(_saved(tmp_path / "w.pt", document)), source="w.pt")
    for name, tensor in source.state_dict().items():
        assert model.state_dict()[name].equal(tensor)


def test_safetensors_are_read(tmp_path: Path) -> None:
    """Reference: the state dict that was saved; a file cut short is reported."""
    state = {name: tensor.contiguous() for name, tensor in _model().state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    read = read_weights(path)
    assert read.keys() == state.keys()
    assert all(read[name].equal(tensor) for name, tensor in state.items())
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(errors.DataError, match="not a readable safetensors file"):
        read_weights(path)


@pytest.mark.parametrize("name", ["resnet8", "resnet10"])
def test_a_classifier_of_other_classes_stays(name: str) -> None:
    """Reference: the saved model, but the classifier of before; old files count no batches."""
    source, model = _model(7, name), _model(10, name)
    head = model.classifier.weight.detach().clone()
    originals = {own: original for original, own in source.original_names().items()}
    state = {
        originals[own]: tensor
        for own, tensor in source.state_dict().items()
        if not own.endswith("num_batches_tracked")
    }
    load_weights(model, state, source="w.pt")
    assert model.classifier.weight.equal(head)
    for own, tensor in source.state_dict().items():
        if not own.startswith("classifier."):
            assert model.state_dict()[own].equal(tensor)


def test_what_does_not_fit_is_told_and_nothing_is_loaded() -> None:
    """Reference: counts and the first three names by hand, and the tensors of before."""
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    for name in ("stem.weight", "blocks.0.conv1.weight", "blocks.0.conv2.weight", "stem_norm.bias"):
        del state[name]
    state |= {"a": torch.ones(1), "blocks.1.conv1.weight": torch.ones(2)}
    with pytest.raises(errors.DataError) as caught:
        load_weights(model, state, source="w.pt")
    assert str(caught.value) == (
        "w.pt does not fit backbone 'resnet8': 4 missing (stem.weight, stem_norm.bias, "
        "blocks.0.conv1.weight, …); 1 unexpected (a); 1 of another shape (blocks.1.conv1.weight). "
        "Give weights of this backbone."
    )
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


def test_files_without_weights(tmp_path: Path) -> None:
    """Reference: one line each for no file, broken bytes, code, and tensors without names."""
    with pytest.raises(errors.ConfigError, match=r"no\.pt: no such file of weights"):
        read_weights(tmp_path / "no.pt")
    (tmp_path / "text.pt").write_text("hello")
    _saved(tmp_path / "code.pt", nn.Linear(1, 1))
    for name in ("text.pt", "code.pt"):
        with pytest.raises(errors.DataError, match="is not a readable file of weights") as caught:
            read_weights(tmp_path / name)
        assert "\n" not in str(caught.value)
    for document in ({}, [torch.ones(1)], {"a": 1}, {"state_dict": {}}, {1: torch.ones(1)}):
        with pytest.raises(errors.DataError, match="holds no state dict, also not under"):
            read_weights(_saved(tmp_path / "other.pt", document))


def test_training_begins_with_the_weights_of_a_file(digits_run: Path, tmp_path: Path) -> None:
    """Reference: at a rate of almost 0 the weights stay those of the file, a run's checkpoint."""
    file = digits_run / "checkpoint.pt"
    settings = default_settings(
        "digits-lt", epochs=1, lr=1e-30, weights=str(file), freeze_but_last_block=True
    )
    _, checkpoint = load_checkpoint(train(settings, tmp_path / "run"))
    _, source = load_checkpoint(file)
    for name, tensor in source.weights.items():
        if not ("running" in name or "tracked" in name):
            assert checkpoint.weights[name].equal(tensor)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert checkpoint.settings.weights == str(file)
    assert checkpoint.settings.weights_sha256 == digest
    other = default_settings("digits-lt", epochs=1, weights=str(file), weights_sha256="0" * 64)
    with pytest.raises(errors.DataError, match=f"has SHA-256 {digest}, not 000"):
        train(other, tmp_path / "other")
    misfit = default_settings("digits-lt", epochs=1, backbone="resnet14", weights=str(file))
    with pytest.raises(errors.DataError, match="does not fit backbone 'resnet14'"):
        train(misfit, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("resnet8", ("blocks.2.", "classifier.")),
        ("resnet14", ("blocks.4.", "blocks.5.", "classifier.")),
        ("resnet10", ("net.layer4.", "classifier.")),
    ],
)
def test_only_the_last_block_is_trained(name: str, trained: tuple[str, ...]) -> None:
    """Reference: the state before: what is trained moves, all else is the same bit by bit."""
    dataset = load_dataset(DatasetSettings("digits-lt", imbalance=50.0, data_seed=0))
    settings = default_settings(
        "digits-lt", epochs=1, backbone=name, weights="w.pt", freeze_but_last_block=True
    )
    model = _model(name=name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    list(fit(model, dataset.splits["train"], dataset.preprocessing, settings=settings))
    moved = {key for key, tensor in model.state_dict().items() if not tensor.equal(before[key])}
    assert moved == {key for key in before if key.startswith(trained)}
    assert model.training
    norms = {key: m for key, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(norm.training == key.startswith(trained) for key, norm in norms.items())
    model.eval()
    assert not any(module.training for module in model.modules())


def test_freezing_needs_stages_and_weights() -> None:
    """Reference: one line that says what to do."""
    with torch.device("meta"):
        model = build_backbone("torchvision:alexnet", in_channels=3, num_classes=2)
    with pytest.raises(errors.ConfigError) as caught:
        model.freeze_but_last_block()
    assert str(caught.value) == (
        "Backbone 'torchvision:alexnet' has no residual stages, so no last block to train alone. "
        "Leave --freeze-but-last-block out, or take a ResNet."
    )
    with pytest.raises(errors.ConfigError, match="would keep random weights. Give trained --weig"):
        default_settings("digits-lt", freeze_but_last_block=True)
    with pytest.raises(errors.ConfigError, match="The 'weights' of stage 1 must be a text, got 3"):
        default_settings("digits-lt", weights=3)
