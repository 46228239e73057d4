"""Checks of the prompts of a project and of their evaluations."""

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.llm.case_columns import check_case_columns, check_labelled_columns
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.model import Model


def check_prompts(project: Project) -> None:
    """Raise DefinitionError if a prompt has the name of a model, or if cases lack a column that an evaluation or a calibration reads."""
    models = {model.name for model in project.select(Model)}
    for prompt in project.select(Prompt):
        if prompt.name in models:
            raise DefinitionError(
                f"'{prompt.key}' and 'model/{prompt.name}' share a name, and with it their versions", hint="rename one of the functions"
            )
    check_case_columns(project.select(PromptEvaluation))
    check_labelled_columns(project.select(Calibration))
