"""Trained models put to the test: held-out subjects fitted by every model, measured in one table."""


rule fit:
    input:
        head=models.part("head"),
        records=models.fit_inputs,
        template=plan.template,
    output:
        models.fit(),
    log:
        "logs/fit/{model}/{subject}.log",
    wildcard_constraints:
        model="nphm|npm|pca",
    conda:
        "../../envs/train.yaml"
    threads: 4
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        version=models.version("fit"),
        options=models.options("fit"),
        folders=models.template,
        model=subpath(input.head, parent=True),
        scans=models.scans_of,
        out=subpath(output[0], parent=True),
    message:
        "Fitting {wildcards.model} to the scans of {wildcards.subject}"
    shell:
        "OMP_WAIT_POLICY=passive OMP_NUM_THREADS={threads} python -m pipelines.fit --model {params.model} {params.folders} {params.options}"
        " --out {params.out} {params.scans} > {log} 2>&1"


rule evaluate_model:
    input:
        models.fits,
    output:
        report(models.evaluation, caption="../report/evaluation.rst", category="Models"),
    log:
        "logs/evaluate_model.log",
    conda:
        "../../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        version=models.version("evaluate_model"),
        options=models.options("evaluate_model"),
        folders=models.template,
        fits=models.fits_folders,
    message:
        "Measuring all fits of held-out subjects"
    shell:
        "python -m pipelines.evaluate_model {params.folders} {params.options} --fits {params.fits}"
        " --out {output} > {log} 2>&1"
