"""Measures and pictures of every scan, and the table of all."""


rule evaluate:
    input:
        unpack(plan.inputs("evaluate")),
    output:
        plan.record("evaluate"),
    log:
        "logs/evaluate/{subject}/{expression}.log",
    priority: stage_priority("evaluate")
    conda:
        "../../envs/face.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        version=plan.version("evaluate"),
        options=plan.options("evaluate"),
        folders=plan.folders("evaluate"),
    message:
        "Measuring {wildcards.subject}/{wildcards.expression} against its scan"
    shell:
        "python -m pipelines evaluate {params.folders} {params.options}"
        " {wildcards.subject}/{wildcards.expression} > {log} 2>&1"


rule summary:
    input:
        plan.judged,
        [plan.record("evaluate", scan_id) for scan_id in plan.scan_ids],
    output:
        plan.summary,
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
        fingerprint=plan.fingerprint,
    message:
        "Checking that no more scans failed than max_failed_share allows"
    shell:
        "(echo {params.fingerprint} && python -m pipelines.summary {params.options} {params.limit}) > {output} 2> {log}"
