"""What depends on the head model only, and is made once."""


rule template:
    input:
        plan.template_inputs,
    output:
        plan.template,
    log:
        "logs/template.log",
    conda:
        "../../envs/template.yaml"
    threads: 1
    resources:
        mem_mb=6000,
        runtime=60,
    params:
        version=plan.template_version,
        options=plan.section_option("template"),
        folder=subpath(output[0], parent=True),
    message:
        "Building the template: landmarks, regions, anchors (once for each head model)"
    shell:
        "python -m pipelines.template {params.options} --out {params.folder} > {log} 2>&1"
