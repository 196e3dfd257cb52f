"""What people look at: the gallery of all scans, drawings of the models, the methods in words."""


rule report:
    input:
        plan.judged,
        template=plan.template,
        records=plan.records("evaluate"),
    output:
        plan.gallery,
    log:
        "logs/report.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        version=models.version("report"),
        options=plan.gallery_options,
        verdicts=plan.verdict_option,
        rows=plan.rows_digest,
        folder=subpath(output[0], parent=True),
    message:
        "Writing the gallery of all scans"
    shell:
        "python -m pipelines.report {params.options} {params.verdicts} --out {params.folder} > {log} 2>&1"


rule methods:
    input:
        plan.summary,
    output:
        text=report(plan.methods, caption="../report/methods.rst", category="Methods"),
        references=plan.references,
    log:
        "logs/methods.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        options=plan.whole_config_option,
    message:
        "Writing the methods of this run"
    shell:
        "python -m pipelines.methods --summary {input} {params.options} --out {output.text} > {log} 2>&1"


rule model_report:
    input:
        models.heads,
        models.fits,
    output:
        curves=models.curves,
        fits=models.fit_sheet,
    log:
        "logs/model_report.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        options=models.report_options,
    message:
        "Drawing how the models were trained, and their fits"
    shell:
        "python -m pipelines.model_report {params.options} --curves {output.curves} --fits {output.fits} > {log} 2>&1"


rule report_pages:
    input:
        plan.summary,
        models.training_set,
        plan.methods,
        models.curves,
        models.fit_sheet,
        models.evaluation if models.fits else [],
    output:
        report(plan.page("summary"), caption="../report/summary.rst", category="Scans"),
        report(plan.page("training_set"), caption="../report/training_set.rst", category="Models"),
        report(plan.page("methods"), caption="../report/methods.rst", category="Methods"),
        report(plan.page("curves"), caption="../report/curves.rst", category="Models"),
        report(plan.page("fits"), caption="../report/fits.rst", category="Models"),
        report(plan.page("evaluation"), caption="../report/evaluation.rst", category="Models") if models.fits else [],
    log:
        "logs/report_pages.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        folder=subpath(output[0], parent=True),
    message:
        "Writing tables, drawings and methods as pages of the report"
    shell:
        "python -m pipelines.report_pages {input} --out {params.folder} > {log} 2>&1"
