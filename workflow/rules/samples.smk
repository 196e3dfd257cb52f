"""From a registered mesh to supervision for training: closed scan, signed distances, deformations."""


rule watertight:
    input:
        unpack(plan.inputs("watertight")),
    output:
        plan.record("watertight"),
    log:
        "logs/watertight/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("watertight"),
    priority: stage_priority("watertight")
    conda:
        "../../envs/repair.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(30),
    params:
        version=plan.version("watertight"),
        options=plan.options("watertight"),
        folders=plan.folders("watertight"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Checking {wildcards.scans} and closing its scan"
    shell:
        "python -m pipelines watertight {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule sample_sdf:
    input:
        unpack(plan.inputs("sample_sdf")),
    output:
        plan.record("sample_sdf"),
    log:
        "logs/sample_sdf/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("sample_sdf"),
    priority: stage_priority("sample_sdf")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(3000),
        runtime=plan.minutes(20),
    params:
        version=plan.version("sample_sdf"),
        options=plan.options("sample_sdf"),
        folders=plan.folders("sample_sdf"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Sampling signed distances of {wildcards.scans}"
    shell:
        "python -m pipelines sample_sdf {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule sample_delta:
    input:
        unpack(plan.inputs("sample_delta")),
    output:
        plan.record("sample_delta"),
    log:
        "logs/sample_delta/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("sample_delta"),
    priority: stage_priority("sample_delta")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(2000),
        runtime=plan.minutes(10),
    params:
        version=plan.version("sample_delta"),
        options=plan.options("sample_delta"),
        folders=plan.folders("sample_delta"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Sampling the deformation of {wildcards.scans}"
    shell:
        "python -m pipelines sample_delta {params.folders} {params.options}"
        " {params.unit} {params.scans} > {log} 2>&1"
