"""From a file as delivered to a scan in results/."""


rule ingest:
    input:
        plan.delivered,
    output:
        plan.record("ingest"),
    log:
        "logs/ingest/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("ingest"),
    priority: stage_priority("ingest")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(20),
    params:
        version=plan.version("ingest"),
        options=plan.options("ingest"),
        folders=plan.folders("ingest"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Reading the scan {wildcards.scans}"
    shell:
        "python -m pipelines ingest {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"
