"""Text embeddings by open_clip, of a tiny model with random weights; no network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from featbank import Bank, errors
from stage1.text import PLAIN, class_embeddings, open_clip_text
from tests.conftest import Run

open_clip = pytest.importorskip("open_clip")

NAME = "featbank-tiny"
CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model's random weights in a file; open_clip knows its name, and the network is cut."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / f"{NAME}.json")
    torch.manual_seed(0)
    model = open_clip.create_model(NAME)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_embeddings_are_those_of_open_clip(weights: Path) -> None:
    """Its own encode_text, prompt by prompt, in float64 divided by the length."""
    encoder = open_clip_text(f"{NAME}:{weights}")
    names, templates = ["aquarium_fish", "ant"], [*PLAIN, "itap of the {}, a {}"]
    embeddings = class_embeddings(names, templates, encoder)
    assert (embeddings.shape, embeddings.dtype) == ((2, 2, 8), np.float32)
    model = open_clip.create_model(NAME, pretrained=str(weights)).eval()
    tokenizer = open_clip.get_tokenizer(NAME)
    prompts = [
        ["a photo of a aquarium fish.", "a photo of a ant."],
        ["itap of the aquarium fish, a aquarium fish", "itap of the ant, a ant"],
    ]
    for p, k in np.ndindex(2, 2):
        with torch.no_grad():
            row = model.encode_text(tokenizer([prompts[p][k]]))[0].double().numpy()
        np.testing.assert_allclose(embeddings[p, k], row / np.linalg.norm(row), atol=1e-6)
    assert encoder.logit_scale == pytest.approx(np.exp(3.0), rel=1e-6)


def test_the_road_to_a_bank(featbank: Run, weights: Path) -> None:
    """`featbank text` of the classes of a bank, `amend`, and `import`; names decide the order."""
    y = np.array([0, 1, 2, 2])
    np.save("x.npy", np.arange(32.0).reshape(4, 8))
    np.save("y.npy", np.array(["cat", "ant", "bee"])[y])
    featbank("import", "--train", "x.npy", "y.npy", "-o", "b.h5")
    Path("prompts.txt").write_text("a {}.\n\nthe {}.\n")
    shown = featbank(
        "text", "b.h5", "--model", f"{NAME}:{weights}", "--templates", "prompts.txt", "-o", "t.npz"
    ).stdout
    assert "2 prompts of 3 × 8, logit scale 20.09" in shown
    featbank("amend", "b.h5", "--text", "t.npz", "-o", "c.h5")
    expected = class_embeddings(
        ["ant", "bee", "cat"], ["a {}.", "the {}."], open_clip_text(f"{NAME}:{weights}")
    )
    with Bank("b.h5") as before, Bank("c.h5") as bank:
        text = bank.text()
        assert text is not None
        np.testing.assert_array_equal(text.features, expected)
        assert text.logit_scale == pytest.approx(np.exp(3.0), rel=1e-6)
        assert bank.digest("train/instance/feature") == before.digest("train/instance/feature")
        assert bank.provenance["from"]["fingerprint"] == before.fingerprint
    featbank("import", "--train", "x.npy", "y.npy", "--text", "t.npz", "-o", "d.h5")
    with Bank("c.h5") as one, Bank("d.h5") as other:
        assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("featbank-tinny:{}", "open_clip has no model 'featbank-tinny'. Did you mean"),
        (NAME, "featbank-tiny was given without weights"),
        (f"{NAME}:nowhere.pt", "featbank-tiny has no weights 'nowhere.pt'"),
        ("ViT-B-32:laion", "a file or one of openai, laion400m_e31"),
        (f"{NAME}:damaged.pt", "open_clip does not load featbank-tiny:damaged.pt"),
        (f"{NAME}:other.pt", "open_clip does not load featbank-tiny:other.pt"),
        (f"{NAME}:pickle.pt", "open_clip does not load featbank-tiny:pickle.pt"),
    ],
)
def test_models_that_are_not(weights: Path, model: str, message: str) -> None:
    """One line; no code of a pickle runs."""
    import pickle

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (Path("ran"),)

    Path("damaged.pt").write_bytes(weights.read_bytes()[:1000])
    torch.save({"a": torch.ones(2)}, "other.pt")
    Path("pickle.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(errors.FeatbankError) as caught:
        open_clip_text(model.format(weights))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("names", "prompts", "message"),
    [
        ("ant\nbee\n", "a photo\n", "Template 1, 'a photo', has no {}"),
        ("ant\nbee\n", "\n", "prompts.txt has no prompts"),
        ("", "a {}\n", "names.txt has no class names"),
    ],
)
def test_prompts_that_are_not(
    featbank: Run, weights: Path, names: str, prompts: str, message: str
) -> None:
    """Before any model is used for nothing."""
    Path("names.txt").write_text(names)
    Path("prompts.txt").write_text(prompts)
    command = ("text", "names.txt", "--model", f"{NAME}:{weights}", "--templates", "prompts.txt")
    assert message in featbank(*command, "-o", "t.npz", code=2).stderr
    assert not Path("t.npz").exists()
