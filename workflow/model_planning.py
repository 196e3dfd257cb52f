"""What the rules of training, fitting and measuring ask: settings, inputs and commands of each model.

Models lie in `results/models/NAME/`, fits in `results/fits/NAME/SUBJECT/`. The baseline `npm` goes through the same
rules as `nphm`, with one global network; `pca` is trained in one go.
"""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nphm_core.config import Section, TrainIdentityConfig, npm_identity
from nphm_core.stages import MODEL_STAGES
from workflow.planning import Plan

_BOTH_STAGES = ("train_identity", "train_expression")


class ModelPlan:
    """All that the rules of models need to know."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._results = plan.settings.results

    @property
    def training_set(self) -> str:
        """The table of the scans that are trained on."""
        return f"{self._results}/training_set.tsv"

    @property
    def evaluation(self) -> str:
        """The table of all models' measures."""
        return f"{self._results}/models/evaluation.tsv"

    @property
    def curves(self) -> str:
        """How the losses of all trainings fell."""
        return f"{self._results}/models/curves.svg"

    @property
    def fit_sheet(self) -> str:
        """Pictures of the fits."""
        return f"{self._results}/models/fits.jpg"

    @property
    def report_options(self) -> str:
        """Give the options of the command that draws them."""
        return shlex.join(["--results", self._results, "--models", *self._plan.settings.models])

    @property
    def heads(self) -> list[str]:
        """The trained models."""
        return [self.part("head", model) for model in self._plan.settings.models]

    @property
    def fits(self) -> list[str]:
        """What is fitted and measured: each held-out subject with each model."""
        settings = self._plan.settings
        return [self.fit(model, subject) for model in settings.models for subject in settings.held_out]

    @property
    def fits_folders(self) -> list[str]:
        """The folders of fits, one for each model."""
        return [f"{self._results}/fits/{model}" for model in self._plan.settings.models]

    def part(self, part: str, model: str = "{model}") -> str:
        """Give the file that says that a part of a model (`identity`, `head`) is complete."""
        return f"{self.folder(part, model)}/config.json"

    def folder(self, part: str, model: str = "{model}") -> str:
        """Give the folder of a part of a model."""
        return f"{self._results}/models/{model}/{part}"

    def fit(self, model: str = "{model}", subject: str = "{subject}") -> str:
        """Give the file that says that a subject's scans are fitted."""
        return f"{self._results}/fits/{model}/{subject}/fit.json"

    def version(self, stage: str) -> int:
        """Give the stage's result version."""
        return MODEL_STAGES[stage]

    def scans_of(self, wildcards: Any) -> list[str]:
        """List the scans of a subject."""
        return [scan_id for scan_id in self._plan.scan_ids if scan_id.split("/")[0] == wildcards.subject]

    def fit_inputs(self, wildcards: Any) -> list[str]:
        """List the records that a fit reads."""
        return self._plan.records("ingest", "backproject", "flame_fit", scan_ids=self.scans_of(wildcards))

    @property
    def scan_options(self) -> str:
        """Give the options that say where scans and results lie."""
        settings = self._plan.settings
        options = ["--table", settings.scans, "--canonical", settings.canonical, "--results", self._results]
        return " ".join(filter(None, [shlex.join(options), self._plan.verdict_option]))

    @property
    def hold_out(self) -> str:
        """Give the option that names the subjects kept from training."""
        held_out = self._plan.settings.held_out
        return shlex.join(["--hold-out", ",".join(held_out)]) if held_out else ""

    @property
    def template(self) -> str:
        """Give the options for results and template."""
        return shlex.join(["--results", self._results, "--template", self._plan.template_folder])

    def _initial(self, model: str) -> str:
        """Give the option that names the earlier model, where there is one."""
        folder = Path(self._plan.settings.initial_models) / model / "head"
        is_there = self._plan.settings.initial_models and (folder / "config.json").is_file()
        return f" --initial {shlex.quote(str(folder))}" if is_there else ""

    def options(self, stage: str) -> Callable[[Any], str]:
        """Give the function of a job's wildcards that gives the options which decide its result."""

        def of_model(wildcards: Any) -> str:
            settings: Section = getattr(self._plan.settings, stage)
            if isinstance(settings, TrainIdentityConfig) and wildcards.model == "npm":
                settings = npm_identity(settings)
            text = json.dumps(settings.model_dump(mode="json"), sort_keys=True)
            out = f"--seed {self._plan.settings.seed} --settings {shlex.quote(text)}"
            return out + self._initial(wildcards.model) if stage in _BOTH_STAGES else out

        return of_model
