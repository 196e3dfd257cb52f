"""From a registered mesh to supervision for training: closed scan, signed distances, deformations."""


rule watertight:
    input:
        unpack(plan.inputs("watertight")),
    output:
        plan.record("watertight"),
    log:
        "logs/watertight/{subject}/{expression}.log",
    priority: stage_priority("watertight")
    conda:
        "../../envs/repair.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        version=plan.version("watertight"),
        options=plan.options("watertight"),
        folders=plan.folders("watertight"),
    message:
        "Checking {wildcards.subject}/{wildcards.expression} and closing its scan"
    shell:
        "python -m pipelines watertight {params.folders} {params.options}"
        " {wildcards.subject}/{wildcards.expression} > {log} 2>&1"


rule sample_sdf:
    input:
        unpack(plan.inputs("sample_sdf")),
    output:
        plan.record("sample_sdf"),
    log:
        "logs/sample_sdf/{subject}/{expression}.log",
    priority: stage_priority("sample_sdf")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        version=plan.version("sample_sdf"),
        options=plan.options("sample_sdf"),
        folders=plan.folders("sample_sdf"),
    message:
        "Sampling signed distances of {wildcards.subject}/{wildcards.expression}"
    shell:
        "python -m pipelines sample_sdf {params.folders} {params.options}"
        " {wildcards.subject}/{wildcards.expression} > {log} 2>&1"


rule sample_delta:
    input:
        unpack(plan.inputs("sample_delta")),
    output:
        plan.record("sample_delta"),
    log:
        "logs/sample_delta/{subject}/{expression}.log",
    priority: stage_priority("sample_delta")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        version=plan.version("sample_delta"),
        options=plan.options("sample_delta"),
        folders=plan.folders("sample_delta"),
    message:
        "Sampling the deformation of {wildcards.subject}/{wildcards.expression}"
    shell:
        "python -m pipelines sample_delta {params.folders} {params.options}"
        " {wildcards.subject}/{wildcards.expression} > {log} 2>&1"
