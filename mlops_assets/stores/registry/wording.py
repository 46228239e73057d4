"""How the messages of a registry name what it registers: a model, or a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from mlops_assets.values.asset_names import graph_key


@dataclass(frozen=True)
class Wording:
    """The words of error messages and hints.

    Parameters
    ----------
    noun
        ``model`` or ``prompt``.
    evidence_steps
        The assets to materialise for new evidence; empty for the candidate of the model.
    """

    noun: str = "model"
    evidence_steps: str = ""

    @property
    def command(self) -> str:
        """The group of commands, such as ``mlops models``."""
        return f"mlops {self.noun}s"

    def name_evidence_steps(self, name: str) -> str:
        """Return the assets to materialise for new evidence of a model or prompt."""
        return self.evidence_steps or graph_key(f"model/{name}")


MODEL_WORDING = Wording()
