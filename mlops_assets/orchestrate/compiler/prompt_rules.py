"""Check the prompts of a project and their evaluations, and list the declarations that they refer to."""

from collections.abc import Iterator

from mlops_assets.errors import DefinitionError
from mlops_assets.orchestrate.core.project import Project
from mlops_assets.orchestrate.llm.case_columns import check_case_columns, check_labelled_columns
from mlops_assets.values.llm.calibration import Calibration
from mlops_assets.values.llm.prompt import Prompt
from mlops_assets.values.llm.prompt_evaluation import PromptEvaluation
from mlops_assets.values.llm.prompt_service import PromptService
from mlops_assets.values.llm.quality_monitor import QualityMonitor
from mlops_assets.values.model import Model


def check_prompts(project: Project) -> None:
    """Raise DefinitionError if a prompt has the name of a model, or if cases lack a column that an evaluation or a calibration reads."""
    models = {model.name for model in project.select(Model)}
    for prompt in project.select(Prompt):
        if prompt.name in models:
            raise DefinitionError(
                f"'{prompt.key}' and 'model/{prompt.name}' share a name, so their versions would be mixed",
                hint="rename one of the functions",
            )
    check_case_columns(project.select(PromptEvaluation))
    check_labelled_columns(project.select(Calibration))


def list_prompt_references(project: Project) -> Iterator[tuple[str, str, str]]:
    """Yield (referring declaration, role of the target, key of the target) for each reference of an LLM declaration."""
    for service in project.select(PromptService):
        yield f"'{service.key}'", "the prompt", service.prompt.key
        if service.prices is not None:
            yield f"'{service.key}'", "the dataset", service.prices.key
    for evaluation in project.select(PromptEvaluation):
        datasets = (evaluation.cases, *([evaluation.prices] if evaluation.prices else []))
        yield from ((f"'{evaluation.key}'", "the dataset", dataset.key) for dataset in datasets)
        yield f"'{evaluation.key}'", "the prompt", evaluation.prompt.key
    yield from ((f"'{calibration.key}'", "the dataset", calibration.cases.key) for calibration in project.select(Calibration))
    yield from ((f"'{monitor.key}'", "the source of its traces", monitor.of.key) for monitor in project.select(QualityMonitor))
