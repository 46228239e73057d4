"""How the messages of a registry name what it registers: a model, or a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_assets.values.asset_names import build_graph_key


@dataclass(frozen=True)
class Wording:
    """The words of error messages and hints.

    Parameters
    ----------
    noun
        ``model`` or ``prompt``.
    evidence_steps
        The assets to materialise for new evidence; empty for the candidate of the model, and for a prompt without evaluations.
    """

    noun: str = "model"
    evidence_steps: str = ""

    @property
    def command(self) -> str:
        """The group of commands, such as ``mlops models``."""
        return f"mlops {self.noun}s"

    def describe_next_step(self, name: str, purpose: str) -> str:
        """Return the hint to get new evidence of a model or prompt.

        Parameters
        ----------
        name
            The model or prompt.
        purpose
            The end of the sentence, after the assets to materialise.
        """
        if self.noun == "prompt" and not self.evidence_steps:
            return f"declare a PromptEvaluation of '{name}'"
        return f"materialise {self.evidence_steps or build_graph_key(f'model/{name}')} {purpose}"


MODEL_WORDING = Wording()
