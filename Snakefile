"""Raw head scans in, registered meshes and training samples out."""

from snakemake.utils import min_version

from workflow.model_planning import ModelPlan
from workflow.planning import Plan, use_this_python
from workflow.progress import tell_progress
from workflow.run_guard import RunGuard, stage_priority

min_version("9.27")


configfile: "config.yaml"


report: "workflow/report/run.rst"


use_this_python(workflow.basedir)
plan = Plan(config, workflow)
models = ModelPlan(plan)
guard = RunGuard(plan, workflow)
tell_progress(plan, workflow)


wildcard_constraints:
    subject="[A-Za-z0-9-]+",


include: "workflow/rules/template.smk"
include: "workflow/rules/scans.smk"
include: "workflow/rules/registration.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/fitting.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        plan.left,
        plan.template,
        plan.summary,
        plan.verdict,
        plan.gallery,
    message:
        "Every scan has its verdict"


rule model:
    input:
        models.heads,
        models.evaluation if models.fits else [],
    message:
        "Every model is trained, and measured on the held-out subjects"


rule write_up:
    input:
        plan.methods,
        models.curves,
        models.fit_sheet,
        plan.page("methods"),
    message:
        "Methods, references and drawings for a paper lie in the folder of results"


onstart:
    guard.start()


onsuccess:
    plan.close()
    shell(plan.closing_command)


onerror:
    plan.close()
    shell(plan.closing_command)
