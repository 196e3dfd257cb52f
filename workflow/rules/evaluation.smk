"""Measures and pictures of every scan, and the table of all."""


rule evaluate:
    input:
        unpack(plan.inputs("evaluate")),
    output:
        plan.record("evaluate"),
    log:
        "logs/evaluate/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("evaluate"),
    priority: stage_priority("evaluate")
    conda:
        "../../envs/face.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(3000),
        runtime=plan.minutes(20),
    params:
        version=plan.version("evaluate"),
        options=plan.options("evaluate"),
        folders=plan.folders("evaluate"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Measuring {wildcards.scans} against its scan"
    shell:
        "python -m pipelines evaluate {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule summary:
    input:
        plan.judged,
        plan.records("evaluate"),
    output:
        report(plan.summary, caption="../report/summary.rst", category="Scans"),
    log:
        "logs/summary.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        options=plan.summary_options,
        rows=plan.rows_digest,
    message:
        "Writing the table of all scans"
    shell:
        "python -m pipelines.summary {params.options} > {log} 2>&1"


rule verdict:
    input:
        plan.summary,
    output:
        plan.verdict,
    log:
        "logs/verdict.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        options=plan.summary_options,
        limit=plan.limit_option,
    message:
        "Checking that no more scans failed than max_failed_share allows"
    shell:
        "python -m pipelines.summary {params.options} {params.limit} > {output} 2> {log}"
