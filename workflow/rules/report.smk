"""What people look at: the gallery of all scans."""


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
