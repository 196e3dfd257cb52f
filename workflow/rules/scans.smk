"""From a file as delivered to a scan in results/."""


rule ingest:
    input:
        plan.delivered,
    output:
        plan.record("ingest"),
    log:
        "logs/ingest/{subject}/{expression}.log",
    priority: stage_priority("ingest")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=20,
    params:
        version=plan.version("ingest"),
        options=plan.options("ingest"),
        row=plan.row,
        folders=plan.folders("ingest"),
    message:
        "Reading the scan {wildcards.subject}/{wildcards.expression}"
    shell:
        "python -m pipelines ingest {params.folders} {params.options}"
        " {wildcards.subject}/{wildcards.expression} > {log} 2>&1"
