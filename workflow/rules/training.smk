"""Models from the samples of all scans: the training set, both stages of training, the linear baseline."""


rule training_set:
    input:
        plan.judged,
        plan.records("arap", "sample_sdf", "sample_delta", "evaluate"),
    output:
        report(models.training_set, caption="../report/training_set.rst", category="Models"),
    log:
        "logs/training_set.log",
    localrule: True
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        version=models.version("training_set"),
        options=models.scan_options,
        hold_out=models.hold_out,
        rows=plan.rows_digest,
    message:
        "Writing down which scans are trained on"
    shell:
        "python -m pipelines.training_set {params.options} {params.hold_out} --out {output} > {log} 2>&1"


rule train_identity:
    input:
        training_set=models.training_set,
        template=plan.template,
    output:
        models.part("identity"),
    log:
        "logs/train_identity/{model}.log",
    wildcard_constraints:
        model="nphm|npm",
    conda:
        "../../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=2880,
    params:
        version=models.version("train_identity"),
        options=models.options("train_identity"),
        folders=models.template,
        out=subpath(output[0], parent=True),
    message:
        "Training the identity field of {wildcards.model}"
    shell:
        "OMP_WAIT_POLICY=passive OMP_NUM_THREADS={threads} python -m pipelines.train_identity --training-set {input.training_set}"
        " {params.folders} {params.options} --out {params.out} > {log} 2>&1"


rule train_expression:
    input:
        training_set=models.training_set,
        template=plan.template,
        identity=models.part("identity"),
    output:
        models.part("head"),
    log:
        "logs/train_expression/{model}.log",
    wildcard_constraints:
        model="nphm|npm",
    conda:
        "../../envs/train.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=2880,
    params:
        version=models.version("train_expression"),
        options=models.options("train_expression"),
        folders=models.template,
        identity=subpath(input.identity, parent=True),
        out=subpath(output[0], parent=True),
    message:
        "Training the expression field of {wildcards.model}"
    shell:
        "OMP_WAIT_POLICY=passive OMP_NUM_THREADS={threads} python -m pipelines.train_expression --training-set {input.training_set}"
        " {params.folders} {params.options} --identity {params.identity} --out {params.out} > {log} 2>&1"


rule train_baselines:
    input:
        training_set=models.training_set,
        template=plan.template,
    output:
        models.part("head", "pca"),
    log:
        "logs/train_baselines/pca.log",
    conda:
        "../../envs/train.yaml"
    threads: 4
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        version=models.version("train_baselines"),
        options=models.options("train_baselines"),
        folders=models.template,
        out=subpath(output[0], parent=True),
    message:
        "Training the linear baseline on the same registered meshes"
    shell:
        "OMP_WAIT_POLICY=passive OMP_NUM_THREADS={threads} python -m pipelines.train_baselines --training-set {input.training_set}"
        " {params.folders} {params.options} --out {params.out} > {log} 2>&1"
