"""From a scan to a registered mesh: face, landmarks, linear fit, refinement, fine registration."""


rule render:
    input:
        unpack(plan.inputs("render")),
    output:
        plan.record("render"),
    log:
        "logs/render/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("render"),
    priority: stage_priority("render")
    conda:
        "../../envs/face.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(10),
    params:
        version=plan.version("render"),
        options=plan.options("render"),
        folders=plan.folders("render"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Finding the face of {wildcards.scans} and rendering it"
    shell:
        "python -m pipelines render {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule landmarks:
    input:
        unpack(plan.inputs("landmarks")),
    output:
        plan.record("landmarks"),
    log:
        "logs/landmarks/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("landmarks"),
    priority: stage_priority("landmarks")
    conda:
        "../../envs/face.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(10),
    params:
        version=plan.version("landmarks"),
        options=plan.options("landmarks"),
        folders=plan.folders("landmarks"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Detecting the landmarks of {wildcards.scans}"
    shell:
        "python -m pipelines landmarks {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule backproject:
    input:
        unpack(plan.inputs("backproject")),
    output:
        plan.record("backproject"),
    log:
        "logs/backproject/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("backproject"),
    priority: stage_priority("backproject")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(10),
    params:
        version=plan.version("backproject"),
        options=plan.options("backproject"),
        folders=plan.folders("backproject"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Lifting the landmarks of {wildcards.scans} to its surface"
    shell:
        "python -m pipelines backproject {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule flame_fit:
    input:
        unpack(plan.inputs("flame_fit")),
    output:
        plan.record("flame_fit"),
    log:
        "logs/flame_fit/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("flame_fit"),
    priority: stage_priority("flame_fit")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(10),
    params:
        version=plan.version("flame_fit"),
        options=plan.options("flame_fit"),
        folders=plan.folders("flame_fit"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Fitting the head model to {wildcards.scans}"
    shell:
        "python -m pipelines flame_fit {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule subdivide:
    input:
        unpack(plan.inputs("subdivide")),
    output:
        plan.record("subdivide"),
    log:
        "logs/subdivide/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("subdivide"),
    priority: stage_priority("subdivide")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(10),
    params:
        version=plan.version("subdivide"),
        options=plan.options("subdivide"),
        folders=plan.folders("subdivide"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Refining the fitted head of {wildcards.scans}"
    shell:
        "python -m pipelines subdivide {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"


rule arap:
    input:
        unpack(plan.inputs("arap")),
    output:
        plan.record("arap"),
    log:
        "logs/arap/{scans}.log",
    wildcard_constraints:
        scans=plan.pattern("arap"),
    priority: stage_priority("arap")
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=plan.megabytes(4000),
        runtime=plan.minutes(20),
    params:
        version=plan.version("arap"),
        options=plan.options("arap"),
        folders=plan.folders("arap"),
        scans=plan.scans,
        unit=plan.unit_option,
    message:
        "Registering the template to {wildcards.scans}"
    shell:
        "python -m pipelines arap {params.folders} {params.options}" " {params.unit} {params.scans} > {log} 2>&1"
