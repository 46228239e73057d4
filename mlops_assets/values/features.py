"""Features: looked up by entity and time, or computed from the row itself."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from mlops_assets.errors import DefinitionError, suggest_name
from mlops_assets.values.arguments import check_arguments, check_constructor
from mlops_assets.values.dataset import Dataset, ExternalDataset
from mlops_assets.values.feature_sources import Computed, DbtModel, Sql
from mlops_assets.values.feature_types import accepts_default, check_type, format_type
from mlops_assets.values.function import P, R
from mlops_assets.values.names import to_names, to_pairs, validate_name
from mlops_assets.values.options import AssetArguments, AssetOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    import dagster as dg

    from mlops_assets.values.quality import Quality


@check_constructor
@dataclass(frozen=True)
class Entity:
    """What the rows of a feature view are about, e.g. a customer, with the join keys that identify it.

    Parameters
    ----------
    name
        The name, e.g. ``"customer"``.
    join_keys
        The columns that identify an entity, both in a feature table and in the rows of a training set; ``(name,)`` when empty.

    See Also
    --------
    FeatureView : Features of an entity.

    Examples
    --------
    >>> import mlops_assets as ml
    >>> ml.Entity("route", join_keys=("origin", "dest")).join_keys
    ('origin', 'dest')
    """

    name: str
    join_keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the name, and make the name the join key when none is given."""
        validate_name(self.name, "an entity")
        object.__setattr__(self, "join_keys", to_names(self.join_keys) or (self.name,))


FeatureSource = Dataset[..., Any] | ExternalDataset | DbtModel | Computed[..., Any] | Sql


@check_constructor
@dataclass(frozen=True, init=False)
class FeatureView:
    """Features of one entity, looked up as of an event's time.

    Parameters
    ----------
    source
        A dbt model, a query (:class:`Sql`), or a dataset whose rows carry the join keys, the time and the features. A function of
        your own is decorated with :func:`mlops_assets.feature_view` instead.
    entity
        The entity that the features describe.
    event_timestamp
        The column of the source with the time from which a row's values are valid.
    ttl
        How long a row's values are valid, the end included; without limit when None.
    features
        Column name → Python type: ``float``, ``int``, ``bool``, ``str``, ``datetime``, a list of one of them, or an embedding, e.g.
        ``Annotated[list[float], 384]``.
    created_timestamp
        The column with the time a row became known; the event time when None. It is needed where a row exists only some time after its
        event time: a row that is stamped with the start of its partition exists when the partition has ended.
    name
        The name of the view; the source's name when None. Required for a query, which has no name.
    online
        Whether serving looks these features up.
    defaults
        Feature → the value where a lookup finds none, in training and in serving; null by default.
    quality
        Limits on null shares, ranges, categories and row counts, declared or learned; a dbt model has dbt's own tests instead.
    freshness
        Maximum age of the newest materialisation, or the cron schedule by which a materialisation is due. When None, the maximum age is the
        longer of the ttl and two partitions. Freshness is not checked without a ttl, or after the end of the last partition.
    description
        Shown in the Dagster UI.
    **options
        Passed to Dagster, as in :func:`mlops_assets.dataset`.

    Raises
    ------
    DefinitionError
        The view has no valid name or no features, a type cannot be stored, or a default does not fit its feature.

    See Also
    --------
    feature_view : A view that a function computes.
    on_demand_features : Features computed from the row itself.

    Examples
    --------
    >>> from datetime import timedelta
    >>> import mlops_assets as ml
    >>> weather = ml.ExternalDataset("weather", key=("origin", "observed_at"), event_timestamp="observed_at")
    >>> view = ml.FeatureView(source=weather, entity=ml.Entity("origin"), event_timestamp="observed_at",
    ...                       ttl=timedelta(hours=3), features={"wind_speed": float})
    >>> view.key
    'features/weather'
    """

    name: str
    source: FeatureSource
    entity: Entity
    event_timestamp: str
    ttl: timedelta | None
    features: tuple[tuple[str, type], ...]
    created_timestamp: str | None
    online: bool
    defaults: tuple[tuple[str, Any], ...] = ()
    quality: Quality | None = None
    freshness: timedelta | str | None = None
    description: str = ""
    options: AssetOptions = field(default=AssetOptions(), compare=False)
    pinned: str = ""
    prefix: str = ""
    spine_keys: tuple[tuple[str, str], ...] = ()

    def __init__(  # noqa: PLR0913  (a flat declaration reads best)
        self,
        *,
        source: FeatureSource,
        entity: Entity,
        event_timestamp: str,
        features: Mapping[str, type],
        ttl: timedelta | None = None,
        created_timestamp: str | None = None,
        name: str | None = None,
        online: bool = False,
        defaults: Mapping[str, Any] | None = None,
        quality: Quality | None = None,
        freshness: timedelta | str | None = None,
        description: str = "",
        **options: object,
    ) -> None:
        chosen_name = name or getattr(source, "name", None)
        if chosen_name is None:
            raise DefinitionError("a feature view over a query has no name", hint="give name=")
        values = {
            "name": validate_name(chosen_name, "a feature view"),
            "source": source,
            "entity": entity,
            "event_timestamp": event_timestamp,
            "ttl": ttl,
            "features": to_pairs(features),
            "created_timestamp": created_timestamp,
            "online": online,
            "defaults": to_pairs(defaults),
            "quality": quality,
            "freshness": freshness,
            "description": description,
            "options": AssetOptions.from_arguments(AssetArguments(**options)),  # type: ignore[typeddict-item]
            "pinned": "",
            "prefix": "",
            "spine_keys": (),
        }
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        self._check()

    def _check(self) -> None:
        """Raise DefinitionError without features, for a type that cannot be stored, and for a default that does not fit its feature."""
        kinds = dict(self.features)
        if not kinds:
            raise DefinitionError(f"feature view '{self.name}' names no features", hint="give features={'column': float}")
        for feature, kind in self.features:
            check_type(self.name, feature, kind)
        for feature, value in self.defaults:
            if feature not in kinds:
                raise DefinitionError(
                    f"feature view '{self.name}' has a default for '{feature}', which is not among its features",
                    hint=suggest_name(feature, kinds) + f"it has {', '.join(kinds)}",
                )
            if not accepts_default(kinds[feature], value):
                raise DefinitionError(
                    f"feature view '{self.name}': the default of '{feature}' is a {type(value).__name__}, the feature a {format_type(kinds[feature])}",
                    hint="give a value of the feature's own type",
                )

    @property
    def key(self) -> str:
        """``features/<name>``."""
        return f"features/{self.name}"

    @property
    def quality_key(self) -> str:
        """``quality/<name>_features``: the learned limits; the suffix separates them from those of a dataset of the same name."""
        return f"quality/{self.name}_features"

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The feature columns, sorted by name, which is also their order in ``X``."""
        return tuple(name for name, _ in self.features)

    @property
    def renamed_keys(self) -> tuple[str, ...]:
        """The columns of a spine or a request that the view is looked up by: the join keys, or the columns given to :meth:`renamed`."""
        spine = dict(self.spine_keys)
        return tuple(spine.get(name, name) for name in self.entity.join_keys)

    @property
    def renamed_features(self) -> tuple[str, ...]:
        """The view's columns of ``X``: :attr:`feature_names` with the prefix that was given to :meth:`renamed`."""
        return tuple(self.prefix + name for name in self.feature_names)

    @property
    def is_renamed(self) -> bool:
        """Whether :meth:`renamed` returned this view."""
        return bool(self.prefix or self.spine_keys)

    @property
    def partitions(self) -> dg.PartitionsDefinition | None:
        """The partitions of the source."""
        return self.source.table.partitions if isinstance(self.source, (Dataset, ExternalDataset)) else self.source.partitions

    @check_arguments
    def at(self, version: str) -> FeatureView:
        """Return the view pinned to an earlier version, whose rows :func:`mlops_assets.training_frame` then reads.

        Parameters
        ----------
        version
            A version that ``mlops features show`` lists; whether it exists is not checked here.

        Returns
        -------
        FeatureView
            The pinned view.
        """
        earlier = copy.copy(self)
        object.__setattr__(earlier, "pinned", version)
        return earlier

    @check_arguments
    def renamed(self, prefix: str, *, join_keys: Mapping[str, str] | None = None) -> FeatureView:
        """Return a copy of the view with a prefix before its features and with other join columns, so that a training set can use it twice.

        Parameters
        ----------
        prefix
            The text before the name of each feature, e.g. ``"origin_"``.
        join_keys
            Join key of the view → the column of the spine and of a request that holds its value; other join keys keep their names.

        Returns
        -------
        FeatureView
            The renamed view.

        Raises
        ------
        DefinitionError
            The view is renamed already, a join key is unknown, or two join keys have one column.

        Examples
        --------
        >>> import mlops_assets as ml
        >>> weather = ml.ExternalDataset("weather", key=("airport", "at"), event_timestamp="at")
        >>> view = ml.FeatureView(source=weather, entity=ml.Entity("airport"), event_timestamp="at", features={"wind": float})
        >>> origin = view.renamed("origin_", join_keys={"airport": "origin"})
        >>> origin.renamed_features, origin.renamed_keys
        (('origin_wind',), ('origin',))
        """
        if self.is_renamed:
            raise DefinitionError(
                f"feature view '{self.name}' is renamed twice", hint="call renamed() on the original view, once for each lookup"
            )
        mapped = to_pairs(join_keys)
        if unknown := [key for key, _ in mapped if key not in self.entity.join_keys]:
            raise DefinitionError(
                f"feature view '{self.name}' has no join key '{unknown[0]}' to rename",
                hint=suggest_name(unknown[0], self.entity.join_keys) + f"it has {', '.join(self.entity.join_keys)}",
            )
        view = copy.copy(self)
        object.__setattr__(view, "prefix", prefix)
        object.__setattr__(view, "spine_keys", mapped)
        if len(set(view.renamed_keys)) < len(view.renamed_keys):
            raise DefinitionError(
                f"feature view '{self.name}' has two join keys in the columns {', '.join(view.renamed_keys)}",
                hint="give each join key a column of its own",
            )
        return view

    def hash_definition(self, source: str = "") -> str:
        """Return a hash of the keys, time columns, feature types and code; when it changes, every partition is stale.

        Partition mappings are not in the hash: they decide a partition's recorded inputs, which make it stale when they change.

        Parameters
        ----------
        source
            The text of a source outside of the project file, such as a dbt model; the source's own text when empty.
        """
        text = source or (self.source.text if isinstance(self.source, (Computed, Sql)) else "")
        kinds = [(name, format_type(kind)) for name, kind in self.features]
        return _hash([self.entity.join_keys, self.event_timestamp, self.created_timestamp, kinds, text])

    def version(self, source: str = "") -> str:
        """Return the view's version, eight characters of a hash of :meth:`hash_definition`, ttl and defaults."""
        ttl = None if self.ttl is None else self.ttl.total_seconds()
        return _hash([self.hash_definition(source), ttl, [(name, repr(value)) for name, value in self.defaults]])[:8]


def _hash(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


class ComputedFeatureView(FeatureView, Generic[P, R]):
    """A feature view that a function computes; still callable as that function. Made by :func:`mlops_assets.feature_view`.

    See Also
    --------
    mlops_assets.feature_view : Returns it.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function that was decorated."""
        return self.source.function(*args, **kwargs)  # type: ignore[union-attr,no-any-return]  # a Computed source


@check_constructor
@dataclass(frozen=True)
class OnDemandFeatures(Generic[P, R]):
    """Features computed from a row and the features looked up for it, by one function for training and for serving.

    Made by :func:`mlops_assets.on_demand_features`; still callable as that function.

    See Also
    --------
    mlops_assets.on_demand_features : Returns it.
    """

    function: Callable[P, R]
    parameters: tuple[str, ...]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function that was decorated."""
        return self.function(*args, **kwargs)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def module_source(self) -> str:
        """The source of the module that defines the function, which a version stores and a service runs.

        Raises DefinitionError when the module has no file.
        """
        file = getattr(sys.modules[self.function.__module__], "__file__", None)
        if file is None:
            raise DefinitionError(
                f"on-demand features '{self.name}' are not defined in a file", hint="move the function into a module of its own"
            )
        return Path(file).read_text(encoding="utf-8")


Features = FeatureView | OnDemandFeatures[..., Any]


def select_feature_views(features: Sequence[Features]) -> tuple[FeatureView, ...]:
    """Return those of ``features`` that are feature views, in order; the others are on-demand features."""
    return tuple(f for f in features if isinstance(f, FeatureView))


def select_stored_views(features: Sequence[Features]) -> tuple[FeatureView, ...]:
    """Return the feature views among ``features``, one for each key: renamed copies of a view read the same stored rows."""
    return tuple({view.key: view for view in select_feature_views(features)}.values())


def select_on_demand(features: Sequence[Features]) -> tuple[OnDemandFeatures[..., Any], ...]:
    """Return those of ``features`` that are on-demand features, in order."""
    return tuple(f for f in features if isinstance(f, OnDemandFeatures))
