"""Every recipe as a scikit-learn classifier, on arrays and without files."""

from __future__ import annotations

import numbers
import warnings
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from featbank import errors
from featbank.devices import find_device
from stage2.engine.loop import run_group
from stage2.engine.model import ViewData
from stage2.engine.plan import Shape, default_memory, plan
from stage2.engine.rows import MemoryRows
from stage2.export.modules import head_module
from stage2.features.probe import cosine_probe, is_cosine, linear_probe, on_unit
from stage2.features.requirements import check_recipe
from stage2.features.scale import measured
from stage2.methods.precisions import default_precision
from stage2.methods.recipe import Recipe, cautions


class LongTailClassifier(ClassifierMixin, BaseEstimator):
    """A recipe of stage 2 on features X [N, D], for pipelines, grid search and calibration.

    It trains what `featbank sweep` trains, on the features of a single view. A recipe that starts
    from the stage-1 classifier starts from `coef_init` and `intercept_init` of `fit`, or without
    them from a linear probe (`stage2.features.probe`).

    Features that come without `coef_init` are scaled to the norm that the presets' learning rates
    were made for (`stage2.features.scale`), as features that stage 1 was not trained on are in a
    sweep; ``feature_scale="none"`` leaves them as they are. The trained head takes X as it is.

    Parameters
    ----------
    recipe
        A preset of `stage2.methods.presets.PRESETS`.
    random_state
        The recipe's seed if it is an integer; otherwise the seed is drawn from it, as in
        scikit-learn.
    device
        ``auto`` (CUDA if available), ``cpu``, ``cuda`` or ``cuda:1``.
    parameters
        Settings of the recipe that differ from the preset, as for `stage2.Recipe`. `fit` checks
        them. Without a ``precision``, matrix products are those of tf32 on CUDA.

    Attributes
    ----------
    classes_
        The K ≥ 2 classes, sorted.
    n_features_in_
        D.
    feature_names_in_
        Names of the D columns, if X had any.
    recipe_
        The `Recipe` that was trained.
    head_
        The trained head, an `nn.Module` from features [B, D] to logits [B, K], float64.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.array([[0.0], [0.1], [1.0]]), np.array(["few", "few", "many"])
    >>> LongTailClassifier("ncm", transform="un").fit(X, y).predict([[0.9]])
    array(['many'], dtype='<U4')
    """

    def __init__(
        self,
        recipe: str = "lws",
        *,
        random_state: Any = None,
        device: str = "auto",
        **parameters: Any,
    ) -> None:
        self.recipe = recipe
        self.random_state = random_state
        self.device = device
        self._parameters = parameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The three parameters and the recipe's settings that were given."""
        return {**super().get_params(deep), **self._parameters}

    def set_params(self, **params: Any) -> Self:
        """Set parameters, or settings of the recipe, whether set before or not."""
        own = self._get_param_names()
        super().set_params(**{name: value for name, value in params.items() if name in own})
        self._parameters |= {name: value for name, value in params.items() if name not in own}
        return self

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """The call that made it, without defaults, in at most so many characters."""
        own = super().get_params(deep=False)
        defaults = {"recipe": self.recipe, "random_state": None, "device": "auto"}
        given = {k: each for k, each in own.items() if each is not defaults[k] != each}
        given |= self._parameters
        named = [f"{name}={each!r}" for name, each in given.items() if name.isidentifier()]
        others = {name: each for name, each in given.items() if not name.isidentifier()}
        parts = [repr(self.recipe), *named, *([f"**{others!r}"] if others else [])]
        text = f"{type(self).__name__}({', '.join(parts)})"
        return text if len(text) <= N_CHAR_MAX else f"{text[: N_CHAR_MAX - 4]} …)"

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        coef_init: ArrayLike | None = None,
        intercept_init: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Train the recipe.

        Parameters
        ----------
        X, y
            Features [N, D] and classes [N].
        coef_init, intercept_init
            The stage-1 classifier W₀ [K, D] and b₀ [K], 0 without it; of two classes also the one
            row [1, D] and number [1] of a linear classifier's `coef_`, half of it for each class.
        sample_weight
            Whole numbers ≥ 0 [N], by default 1: a row of weight n is n equal rows. So it weighs n
            times in the mean loss of an epoch, in class means and covariances, in the scale of the
            features and among neighbours, and adds n to the training count of its class, on which
            priors, class weights, margins and samplers depend. Recipes without steps give what
            repeated rows give; those with steps as well, but for rounding, if the repeated rows
            stand in the same order, which decides the batches.

        Raises
        ------
        ValueError
            For arrays that scikit-learn does not take, weights that are no whole numbers ≥ 0, fewer
            than two classes of rows with a weight, or initial weights of another shape.
        ConfigError
            For settings that the recipe does not take, or that need more than X and y.

        Warns
        -----
        UserWarning
            For settings outside the range that their paper keeps.
        """
        x, target = validate_data(self, X, y, dtype=np.float32)
        check_classification_targets(target)
        if sample_weight is not None:
            times = _times(_check_sample_weight(sample_weight, x, dtype=np.float64))
            x, target = x.repeat(times, axis=0), target.repeat(times)
        self.classes_, labels = np.unique(target, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs 2 classes or more, got 1 class.")
        counts = np.bincount(labels).astype(np.float64)
        device, dim = find_device(self.device), x.shape[1]
        recipe = self._recipe(counts, device)
        check_recipe(recipe, counts, dim)
        for caution in cautions([recipe]):
            warnings.warn(caution, stacklevel=2)
        rows = MemoryRows(torch.tensor(x, device=device), torch.tensor(labels, device=device))
        start = _start(coef_init, intercept_init, (len(counts), dim), device)
        cosine = recipe.cosine_scale
        if start and is_cosine(start[0].cpu().numpy(), start[1].cpu().numpy(), x):
            cosine = None  # it is given
        if recipe.needs_classifier and coef_init is None and cosine is None:
            start = linear_probe(ViewData(rows, {}, counts, counts))
        default = "auto" if coef_init is None else "none"
        scaling = measured(recipe.settings.get("feature_scale", default), [x])
        if scaling:
            scaling.apply_(rows.x)
        if scaling and scaling.unit and start and coef_init is None:
            start = linear_probe(ViewData(rows, {}, counts, counts))
        elif scaling and start:
            start = scaling.classifier(*start)
        data = ViewData(rows, {}, counts, counts, *start)
        if cosine:
            data = on_unit(data, cosine_probe(data, cosine))
        memory = default_memory(device) // 2
        (group,) = plan([recipe], Shape.of(counts, dim), memory=memory, device=device.type)
        (outcome,) = run_group(group, data, workers=torch.get_num_threads())
        if outcome.status != "done":
            raise errors.DataError(
                f"Recipe {recipe.name!r} diverged. Choose a smaller lr, or scale the features."
            )
        self.recipe_ = recipe
        parameters = {name: values.to(device) for name, values in outcome.parameters.items()}
        module = head_module(recipe, parameters, [data.context], [scaling])
        self.head_ = module.double().cpu().eval()
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logits [N, K]; of two classes their difference [N], positive for the second."""
        z = self._logits(X)
        return (z[:, 1] - z[:, 0] if z.shape[1] == 2 else z).numpy()

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probabilities [N, K], the softmax of the logits."""
        return self._logits(X).softmax(1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The class of the largest logit of each row, [N]."""
        largest = self._logits(X).argmax(1).numpy()
        return self.classes_[largest]

    def _logits(self, X: ArrayLike) -> Tensor:
        """[N, K] float64: in float32 a row's logits would depend on the rows beside it."""
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float32, reset=False)
        with torch.no_grad():
            return self.head_(torch.tensor(x, dtype=torch.float64))

    def _recipe(self, counts: NDArray[np.float64], device: torch.device) -> Recipe:
        """The recipe with its seed, and with the precision of the `device` if it is given none;
        raise `ConfigError` if it needs more than X and y."""
        settings = {"view": "instance", **self._parameters}
        recipe = Recipe(self.recipe, **settings)
        fixed = {"view": "instance", "train_on": "train", "calibration": "none"}
        if recipe.on_text:
            raise errors.ConfigError(
                f"Recipe {self.recipe!r} uses text embeddings of the classes, "
                f"{type(self).__name__} knows X and y alone. Give coef_init=scale·text and "
                "init='stage1', or sweep a bank that has text."
            )
        reasons = {
            "seed": "Give random_state.",
            "view": "Give the features of that view as X.",
            "train_on": "Give those rows as X and y.",
            "calibration": "Wrap it in sklearn.calibration.CalibratedClassifierCV.",
        }
        for name, remedy in reasons.items():
            given = name == "seed" and name in settings
            if given or recipe.settings.get(name) != fixed.get(name, recipe.settings.get(name)):
                raise errors.ConfigError(
                    f"{type(self).__name__} takes no setting {name!r}: it knows X and y. {remedy}"
                )
        generator = recipe.generator
        need = generator.needs_val(recipe.part("generator"), counts) if generator else None
        if need is not None:
            raise errors.ConfigError(
                f"Recipe {recipe.name!r} {need.why}, {type(self).__name__} has no val. "
                f"{need.effect} with {need.without}."
            )
        if not recipe.stepped:
            return recipe
        seed = self.random_state
        if not isinstance(seed, numbers.Integral):
            seed = check_random_state(seed).randint(np.iinfo(np.int32).max)
        settings = {"precision": default_precision(device.type), **settings}
        return Recipe(self.recipe, **settings, seed=int(seed))


def _times(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Weights [N] as the numbers of times that rows count."""
    wrong = np.flatnonzero((weights < 0) | (weights != np.rint(weights)))
    if len(wrong):
        raise ValueError(
            f"sample_weight has {weights[wrong[0]]:g} at row {wrong[0]}, but a row counts a whole "
            "number of times ≥ 0. Scale and round the weights, as "
            "np.rint(sample_weight / sample_weight.min()) does for positive ones."
        )
    return weights.astype(np.int64)


def _start(
    coef: ArrayLike | None,
    intercept: ArrayLike | None,
    shape: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor] | tuple[()]:
    """W₀ and b₀, if they are given."""
    if coef is None:
        if intercept is not None:
            raise ValueError("intercept_init is given without coef_init. Give both.")
        return ()
    weight = torch.tensor(np.asarray(coef, np.float32), device=device)
    bias = torch.zeros(len(weight), device=device)
    if intercept is not None:
        bias = torch.tensor(np.asarray(intercept, np.float32), device=device)
    if shape[0] == 2 and weight.shape == (1, shape[1]) and bias.shape == (1,):
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    if weight.shape != shape or bias.shape != shape[:1]:
        raise ValueError(
            f"coef_init and intercept_init have shapes {tuple(weight.shape)} and "
            f"{tuple(bias.shape)}, not {shape} and {shape[:1]}."
        )
    return weight, bias
