"""Checks of the declared services of a project."""

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.values.features import feature_views
from mlops_assets.values.serving import Service


def check_service(project: Project, service: Service) -> None:
    """Raise DefinitionError if a service looks up a view that is not online, or declares another key than a service of the same model."""
    other = next((s for s in project.select(Service) if s.model.key == service.model.key and s.row_key), service)
    if service.row_key and set(service.row_key) != set(other.row_key):
        keys = " and ".join(f"key=({', '.join(s.row_key)})" for s in (other, service))
        raise DefinitionError(
            f"'{other.key}' and '{service.key}' serve '{service.model.key}' with different keys: {keys}",
            hint="labels are joined by one key of the model: give the same key= to both services, or to one of them",
        )
    for view in feature_views(service.model.training_set.features):
        if not view.online:
            raise DefinitionError(
                f"'{service.key}' looks up '{view.key}', which is not online", hint=f"set online=True in the feature view '{view.name}'"
            )
