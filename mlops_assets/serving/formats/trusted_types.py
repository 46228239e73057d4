"""Types that a stored scikit-learn estimator may contain without being trusted by the project.

The list is never read from an artifact. Every type on it contains data, or is a function that computes numbers from its arguments; none
runs code from an artifact. A frozen distribution of scipy is not on the list, because its state contains source code that would run.
:func:`replace_distributions` replaces it by a description before an estimator is stored.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mlops_assets.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TRUSTED = frozenset(
    [
        "functools.partial",
        "numpy.dtype",
        "numpy.mean",
        "scipy._lib.array_api_compat.numpy._aliases.asarray",
        "scipy.interpolate._bsplines.BSpline",
        "scipy.sparse._csr.csr_matrix",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogLink",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfGammaLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfPoissonLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.HalfTweedieLossIdentity",
        "sklearn._loss.loss.PinballLoss",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.cluster._kmeans._kmeans_single_elkan",
        "sklearn.cluster._kmeans._kmeans_single_lloyd",
        "sklearn.compose._column_transformer._RemainderColsList",
        "sklearn.compose._column_transformer.make_column_selector",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.feature_selection._univariate_selection.r_regression",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.CompoundKernel",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.DotProduct",
        "sklearn.gaussian_process.kernels.ExpSineSquared",
        "sklearn.gaussian_process.kernels.Exponentiation",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.PairwiseKernel",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.RationalQuadratic",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.metrics._classification.accuracy_score",
        "sklearn.metrics._classification.balanced_accuracy_score",
        "sklearn.metrics._classification.brier_score_loss",
        "sklearn.metrics._classification.d2_brier_score",
        "sklearn.metrics._classification.d2_log_loss_score",
        "sklearn.metrics._classification.f1_score",
        "sklearn.metrics._classification.jaccard_score",
        "sklearn.metrics._classification.log_loss",
        "sklearn.metrics._classification.matthews_corrcoef",
        "sklearn.metrics._classification.precision_score",
        "sklearn.metrics._classification.recall_score",
        "sklearn.multiclass._ConstantPredictor",
        "sklearn.metrics._dist_metrics.BrayCurtisDistance32",
        "sklearn.metrics._dist_metrics.BrayCurtisDistance64",
        "sklearn.metrics._dist_metrics.CanberraDistance32",
        "sklearn.metrics._dist_metrics.CanberraDistance64",
        "sklearn.metrics._dist_metrics.ChebyshevDistance32",
        "sklearn.metrics._dist_metrics.ChebyshevDistance64",
        "sklearn.metrics._dist_metrics.DiceDistance32",
        "sklearn.metrics._dist_metrics.DiceDistance64",
        "sklearn.metrics._dist_metrics.EuclideanDistance32",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.metrics._dist_metrics.HammingDistance32",
        "sklearn.metrics._dist_metrics.HammingDistance64",
        "sklearn.metrics._dist_metrics.HaversineDistance32",
        "sklearn.metrics._dist_metrics.HaversineDistance64",
        "sklearn.metrics._dist_metrics.JaccardDistance32",
        "sklearn.metrics._dist_metrics.JaccardDistance64",
        "sklearn.metrics._dist_metrics.KulsinskiDistance32",
        "sklearn.metrics._dist_metrics.KulsinskiDistance64",
        "sklearn.metrics._dist_metrics.MahalanobisDistance32",
        "sklearn.metrics._dist_metrics.MahalanobisDistance64",
        "sklearn.metrics._dist_metrics.ManhattanDistance32",
        "sklearn.metrics._dist_metrics.ManhattanDistance64",
        "sklearn.metrics._dist_metrics.MatchingDistance32",
        "sklearn.metrics._dist_metrics.MatchingDistance64",
        "sklearn.metrics._dist_metrics.MinkowskiDistance32",
        "sklearn.metrics._dist_metrics.MinkowskiDistance64",
        "sklearn.metrics._dist_metrics.RogersTanimotoDistance32",
        "sklearn.metrics._dist_metrics.RogersTanimotoDistance64",
        "sklearn.metrics._dist_metrics.RussellRaoDistance32",
        "sklearn.metrics._dist_metrics.RussellRaoDistance64",
        "sklearn.metrics._dist_metrics.SEuclideanDistance32",
        "sklearn.metrics._dist_metrics.SEuclideanDistance64",
        "sklearn.metrics._dist_metrics.SokalMichenerDistance32",
        "sklearn.metrics._dist_metrics.SokalMichenerDistance64",
        "sklearn.metrics._dist_metrics.SokalSneathDistance32",
        "sklearn.metrics._dist_metrics.SokalSneathDistance64",
        "sklearn.metrics._ranking.average_precision_score",
        "sklearn.metrics._ranking.roc_auc_score",
        "sklearn.metrics._ranking.top_k_accuracy_score",
        "sklearn.metrics._regression.d2_absolute_error_score",
        "sklearn.metrics._regression.explained_variance_score",
        "sklearn.metrics._regression.max_error",
        "sklearn.metrics._regression.mean_absolute_error",
        "sklearn.metrics._regression.mean_absolute_percentage_error",
        "sklearn.metrics._regression.mean_gamma_deviance",
        "sklearn.metrics._regression.mean_poisson_deviance",
        "sklearn.metrics._regression.mean_squared_error",
        "sklearn.metrics._regression.mean_squared_log_error",
        "sklearn.metrics._regression.median_absolute_error",
        "sklearn.metrics._regression.r2_score",
        "sklearn.metrics._regression.root_mean_squared_error",
        "sklearn.metrics._regression.root_mean_squared_log_error",
        "sklearn.metrics._scorer._CurveScorer",
        "sklearn.metrics._scorer._MultimetricScorer",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.metrics._scorer._Scorer",
        "sklearn.metrics._scorer.negative_likelihood_ratio",
        "sklearn.metrics._scorer.positive_likelihood_ratio",
        "sklearn.metrics.cluster._supervised.adjusted_mutual_info_score",
        "sklearn.metrics.cluster._supervised.adjusted_rand_score",
        "sklearn.metrics.cluster._supervised.completeness_score",
        "sklearn.metrics.cluster._supervised.fowlkes_mallows_score",
        "sklearn.metrics.cluster._supervised.homogeneity_score",
        "sklearn.metrics.cluster._supervised.mutual_info_score",
        "sklearn.metrics.cluster._supervised.normalized_mutual_info_score",
        "sklearn.metrics.cluster._supervised.rand_score",
        "sklearn.metrics.cluster._supervised.v_measure_score",
        "sklearn.model_selection._search_successive_halving.HalvingGridSearchCV",
        "sklearn.model_selection._search_successive_halving.HalvingRandomSearchCV",
        "sklearn.model_selection._split.GroupKFold",
        "sklearn.model_selection._split.GroupShuffleSplit",
        "sklearn.model_selection._split.KFold",
        "sklearn.model_selection._split.LeaveOneGroupOut",
        "sklearn.model_selection._split.LeaveOneOut",
        "sklearn.model_selection._split.LeavePGroupsOut",
        "sklearn.model_selection._split.LeavePOut",
        "sklearn.model_selection._split.PredefinedSplit",
        "sklearn.model_selection._split.RepeatedKFold",
        "sklearn.model_selection._split.RepeatedStratifiedKFold",
        "sklearn.model_selection._split.ShuffleSplit",
        "sklearn.model_selection._split.StratifiedGroupKFold",
        "sklearn.model_selection._split.StratifiedKFold",
        "sklearn.model_selection._split.StratifiedShuffleSplit",
        "sklearn.model_selection._split.TimeSeriesSplit",
        "sklearn.model_selection._split._CVIterableWrapper",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.neighbors._ball_tree.BallTree32",
        "sklearn.neighbors._ball_tree.BallTree64",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._kd_tree.KDTree32",
        "sklearn.neighbors._kd_tree.KDTree64",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.tree._tree.Tree",
        "sklearn.utils._bunch.Bunch",
        "sklearn.utils._metadata_requests.MetadataRequest",
        "sklearn.utils._metadata_requests.MethodMetadataRequest",
        "sklearn.utils.validation.check_array",
    ]
)
_KEEP_FUNCTIONS = ("FunctionTransformer", "TransformedTargetRegressor", "make_scorer")  # their results contain the function they get
LAMBDA_HINT = (
    'move it to a named function in a module of your project, and name that function: @ml.model(trusted_types=["module.function"])'
)


def is_nameless(type_name: str) -> bool:
    """Whether a function or class cannot be imported by name: a lambda, one defined inside a function, or one that its module lacks.

    Only imported modules are searched: the name may come from an artifact, and importing its module would run code.
    """
    module, _, name = type_name.rpartition(".")
    loaded = sys.modules.get(module)
    return "<lambda>" in type_name or "<locals>" in type_name or (loaded is not None and module != "builtins" and not hasattr(loaded, name))


def refuse_lambdas(function: Callable[..., Any], what: str) -> None:
    """Raise ArtifactError, before training, for a lambda that a model's function passes to a transformer or ``make_scorer``.

    Parameters
    ----------
    function
        Function of the model; nothing is checked if its source cannot be read.
    what
        Name of the model, for error messages.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        if name in _KEEP_FUNCTIONS and any(isinstance(value, ast.Lambda) for value in values):
            line = function.__code__.co_firstlineno + call.lineno - 1
            raise ArtifactError(f"{what} passes a lambda to {name} in line {line}, which a stored model cannot contain", hint=LAMBDA_HINT)


def refuse_unknown_types(trusted: Sequence[str], what: str) -> None:
    """Raise ArtifactError, before training, for a trusted type that cannot be imported by name.

    Parameters
    ----------
    trusted
        Qualified names that the project declares.
    what
        Name of the model, for error messages.
    """
    for name in trusted:
        if "<" in name:
            raise ArtifactError(f"{what} trusts the type '{name}', which cannot be imported by its name", hint=LAMBDA_HINT)
        if not _exists(name):
            raise ArtifactError(
                f"{what} trusts the type '{name}', which does not exist", hint='give module and name, e.g. trusted_types=["features.Ratio"]'
            )


def _exists(name: str) -> bool:
    """Whether a qualified name can be imported; the modules in it are imported."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        try:
            value: Any = import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            value = getattr(value, part, None)
        return value is not None
    return False


@contextmanager
def replace_distributions(estimator: Any) -> Iterator[None]:  # noqa: ANN401  (any estimator)
    """Replace the distributions of randomised searches by their descriptions while an estimator is written.

    Parameters
    ----------
    estimator
        Fitted; it is unchanged afterwards. Predictions do not need the distributions.
    """
    searches = list({id(search): search for search in _find_searches(estimator, set())}.values())
    originals = [search.param_distributions for search in searches]
    try:
        for search, distributions in zip(searches, originals, strict=True):
            search.param_distributions = _describe_all(distributions)
        yield
    finally:
        for search, distributions in zip(searches, originals, strict=True):
            search.param_distributions = distributions


def _find_searches(value: Any, seen: set[int]) -> Iterator[Any]:  # noqa: ANN401
    """Yield every object with ``param_distributions`` in an estimator; ``seen`` collects the ids of visited objects."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if hasattr(value, "param_distributions"):
        yield value
    parts = vars(value).values() if hasattr(value, "get_params") and hasattr(value, "__dict__") else ()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else parts
    for part in parts:
        yield from _find_searches(part, seen)


def _describe_all(distributions: Any) -> Any:  # noqa: ANN401
    if isinstance(distributions, list):
        return [_describe_all(distribution) for distribution in distributions]
    return {name: _describe_distribution(value) if hasattr(value, "rvs") else value for name, value in distributions.items()}


def _describe_distribution(distribution: Any) -> str:  # noqa: ANN401
    """Return a distribution as it is written in source, e.g. ``uniform(0.1, 1)``."""
    arguments = [repr(value) for value in getattr(distribution, "args", ())]
    arguments += [f"{name}={value!r}" for name, value in getattr(distribution, "kwds", {}).items()]
    return f"{getattr(getattr(distribution, 'dist', None), 'name', type(distribution).__name__)}({', '.join(arguments)})"
