"""The final estimator of a pipeline on a matrix, without scikit-learn's checks at every call.

Each shortcut applies to exactly the class it was written for, and is verified on rows before it serves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mlops_assets.errors import DataError
from mlops_assets.serving.predict.compiled_preprocessing import drop_feature_names

if TYPE_CHECKING:
    from collections.abc import Callable

    Scorer = Callable[[np.ndarray], np.ndarray]

BOOSTING = ("HistGradientBoostingClassifier", "HistGradientBoostingRegressor")
_LINEAR = ("ElasticNet", "Lasso", "LinearRegression", "LogisticRegression", "Ridge")
_MAX_CODES = 257  # histogram gradient boosting has at most 256 categories; the last code stands for a missing one
_MAX_ROWS_AT_ONCE = 32  # above, the compiled loop over one tree at a time is faster than numpy over all trees


def compile_final_estimator(fitted: Any, *, shortcut: bool = True) -> Scorer:  # noqa: ANN401
    """Return the function from a matrix to class probabilities, shape (rows, classes), or to predictions, shape (rows,).

    Parameters
    ----------
    fitted
        The fitted estimator.
    shortcut
        Whether a shortcut may replace the estimator's own ``predict_proba`` or ``predict``.
    """
    kind = type(fitted).__name__
    if shortcut and kind in BOOSTING:
        return compile_boosting(fitted)
    if shortcut and kind in _LINEAR and type(fitted).__module__.startswith("sklearn.") and isinstance(fitted.coef_, np.ndarray):
        return compile_linear(fitted)
    unnamed = drop_feature_names(fitted)
    return unnamed.predict_proba if hasattr(unnamed, "predict_proba") else unnamed.predict  # type: ignore[no-any-return]


def compile_boosting(fitted: Any, *, encoded: bool = False) -> Scorer:  # noqa: ANN401
    """Return the function from a matrix to probabilities, or to predictions, of histogram gradient boosting.

    Parameters
    ----------
    fitted
        The fitted estimator.
    encoded
        Whether the matrix is already encoded by the estimator's own encoder of categories.
    """
    trees: Scorer = BoostedTrees(fitted)
    if fitted._preprocessor is not None and not encoded:  # noqa: SLF001
        encode, encoded_trees = compile_boosting_encoder(fitted._preprocessor), trees  # noqa: SLF001
        trees = lambda matrix: encoded_trees(encode(matrix))  # noqa: E731
    if hasattr(fitted, "predict_proba"):
        if fitted.n_trees_per_iteration_ > 1:
            return lambda matrix: fitted._loss.predict_proba(np.asfortranarray(trees(matrix)))  # noqa: SLF001
        return lambda matrix: _to_two_classes(trees(matrix)[:, 0])
    inverse = fitted._loss.link.inverse  # noqa: SLF001
    return lambda matrix: inverse(trees(matrix)[:, 0])


def compile_linear(fitted: Any) -> Scorer:  # noqa: ANN401
    """Return the function from a matrix to probabilities, or to predictions, of a linear model; it raises DataError for NaN or infinity."""
    weights, intercept = np.ascontiguousarray(fitted.coef_.T, dtype=np.float64), fitted.intercept_

    def compute_decision(matrix: np.ndarray) -> np.ndarray:
        if not np.isfinite(matrix).all():
            raise DataError(
                "the model accepts no missing or infinite numbers", hint="send every number, or impute missing ones in the pipeline"
            )
        return matrix @ weights + intercept  # type: ignore[no-any-return]

    if not hasattr(fitted, "predict_proba"):
        return compute_decision
    if len(fitted.classes_) == 2:
        return lambda matrix: _to_two_classes(compute_decision(matrix)[:, 0])
    return lambda matrix: _apply_softmax(compute_decision(matrix))


def _to_two_classes(raw: np.ndarray) -> np.ndarray:
    """Return the probabilities of both classes, shape (rows, 2), from raw scores of the second class."""
    probabilities = np.empty((len(raw), 2))
    probabilities[:, 1] = 1 / (1 + np.exp(-np.maximum(raw, -700.0)))  # below -700 the exponential overflows, and the result is 0 anyway
    probabilities[:, 0] = 1 - probabilities[:, 1]
    return probabilities


def _apply_softmax(raw: np.ndarray) -> np.ndarray:
    exponentials = np.exp(raw - raw.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]


def compile_boosting_encoder(fitted: Any) -> Scorer:  # noqa: ANN401
    """Return a function that encodes a matrix as the estimator's own encoder does.

    The code columns of the categorical features come first (NaN for an unknown category), then the numerical columns.
    """
    columns = {name: np.asarray(fitted._transformer_to_input_indices[name], dtype=np.intp) for name in ("encoder", "numerical")}  # noqa: SLF001
    known = [np.asarray(categories, dtype=np.float64) for categories in fitted.named_transformers_["encoder"].categories_]
    known = [categories[~np.isnan(categories)] for categories in known]

    def encode(matrix: np.ndarray) -> np.ndarray:
        ranks = np.empty((len(matrix), len(known)))
        for i, categories in enumerate(known):
            values = matrix[:, columns["encoder"][i]]
            rank = np.searchsorted(categories, values)
            same = categories.take(rank, mode="clip") == values
            ranks[:, i] = np.where(same, rank, np.nan)
        return np.hstack([ranks, matrix[:, columns["numerical"]]])

    return encode


class BoostedTrees:
    """All trees of a histogram gradient boosting model.

    Up to 32 rows descend all trees at once, one level at a time, in flat arrays. The index of a right child is that of the left child plus
    one, and a leaf is its own child. A missing number is replaced by -∞ for nodes where missing values go left, and by +∞ for the others.
    For each split by category, a table marks the categories that go to the right child. More rows, and infinite numbers, are predicted by
    scikit-learn's own loop, one tree at a time.
    """

    def __init__(self, fitted: Any) -> None:  # noqa: ANN401
        self._predictors = [list(predictors) for predictors in fitted._predictors]  # noqa: SLF001
        self._known = fitted._bin_mapper.make_known_categories_bitsets()  # noqa: SLF001
        self._baseline = fitted._baseline_prediction  # noqa: SLF001
        self._outputs, self._features = fitted.n_trees_per_iteration_, fitted._n_features  # noqa: SLF001
        self._categories = np.zeros(0, dtype=np.intp)
        trees = [tree for iteration in self._predictors for tree in iteration]
        self._flat = bool(trees)
        if trees:
            self._flatten(trees)

    def __call__(self, matrix: np.ndarray) -> np.ndarray:
        """Return the baseline plus the sums of the leaves, shape (rows, trees in one iteration)."""
        if self._flat and len(matrix) <= _MAX_ROWS_AT_ONCE and not np.isinf(matrix).any():
            return self._walk_all_trees(matrix)
        return self._walk_each_tree(np.ascontiguousarray(matrix))

    def _flatten(self, trees: list[Any]) -> None:
        """Store the nodes of all trees, breadth first, in one array for each attribute."""
        feature, threshold, child, value, roots = list[int](), list[float](), list[int](), list[float](), list[int]()
        right, split = [np.zeros(_MAX_CODES, dtype=bool)], list[int]()
        for tree in trees:
            order = _order_breadth_first(tree.nodes)
            start, position = len(feature), {node: i for i, node in enumerate(order)}
            roots.append(start)
            for i, node in enumerate(tree.nodes[order]):
                leaf, categorical = bool(node["is_leaf"]), bool(node["is_categorical"])
                feature.append(0 if leaf else int(node["feature_idx"]) + (0 if node["missing_go_to_left"] else self._features))
                # No number exceeds infinity: leaves and splits by category are decided elsewhere.
                threshold.append(np.inf if leaf or categorical else min(float(node["num_threshold"]), np.finfo(np.float64).max))
                child.append(start + (i if leaf else position[int(node["left"])]))
                value.append(float(node["value"]) if leaf else 0.0)
                split.append(len(right) if categorical and not leaf else 0)
                if split[-1]:
                    right.append(self._mark_right_categories(node, tree.raw_left_cat_bitsets[node["bitset_idx"]]))
        self._feature, self._child, self._roots, self._split = (np.array(x, dtype=np.intp) for x in (feature, child, roots, split))
        self._threshold, self._value, self._right = np.array(threshold), np.array(value), np.array(right)
        self._depth = max(int(tree.nodes["depth"].max()) for tree in trees)
        self._categories = np.unique(self._feature[self._split > 0] % self._features)

    def _mark_right_categories(self, node: np.void, left: np.ndarray) -> np.ndarray:
        """Return for each category code whether the node sends it to its right child; the last entry is for missing values."""
        known = _unpack_bits(self._known[0][self._known[1][node["feature_idx"]]])
        missing_right = not node["missing_go_to_left"]
        return np.append(np.where(known, ~_unpack_bits(left), missing_right), missing_right)

    def _walk_all_trees(self, matrix: np.ndarray) -> np.ndarray:
        """Return the predictions, from one walk through all trees at once."""
        rows, absent = len(matrix), np.isnan(matrix)
        sides = np.concatenate([np.where(absent, -np.inf, matrix), np.where(absent, np.inf, matrix)], axis=1)
        codes = self._encode_categories(matrix, absent) if len(self._categories) else None
        first = np.arange(rows)[:, None] * (2 * self._features)
        node = self._roots if rows == 1 else np.broadcast_to(self._roots, (rows, len(self._roots)))
        sides = sides.ravel()
        for _ in range(self._depth):  # ``node`` is the index of each row's current node in each tree
            at = self._feature[node] if rows == 1 else self._feature[node] + first
            right = sides[at] > self._threshold[node]
            if codes is not None:
                right |= self._right[self._split[node], codes[at]]
            node = self._child[node] + right
        return self._value[node].reshape(rows, -1, self._outputs).sum(axis=1) + self._baseline  # type: ignore[no-any-return]

    def _encode_categories(self, matrix: np.ndarray, absent: np.ndarray) -> np.ndarray:
        codes = np.zeros((len(matrix), 2, self._features), dtype=np.intp)
        for column in self._categories:
            codes[:, :, column] = np.where(absent[:, column], _MAX_CODES - 1, np.clip(matrix[:, column], 0, _MAX_CODES - 2))[:, None]
        return codes.ravel()

    def _walk_each_tree(self, matrix: np.ndarray) -> np.ndarray:
        sums = np.tile(self._baseline.astype(np.float64), (len(matrix), 1))
        for iteration in self._predictors:
            for output, tree in enumerate(iteration):
                sums[:, output] += tree.predict(matrix, *self._known, 1)
        return sums


def _unpack_bits(bitset: np.ndarray) -> np.ndarray:
    """Return 256 bits, the lowest first, as booleans."""
    return np.unpackbits(np.ascontiguousarray(bitset, dtype="<u4").view(np.uint8), bitorder="little").astype(bool)


def _order_breadth_first(nodes: np.ndarray) -> list[int]:
    order = [0]
    for node in order:  # grows while it is walked
        if not nodes[node]["is_leaf"]:
            order += [int(nodes[node]["left"]), int(nodes[node]["right"])]
    return order
