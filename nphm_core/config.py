"""The settings of every stage: the only source of the schema, the defaults and the reference page.

Unknown keys are errors that name the nearest known key. Settings are frozen. A core function takes its own section,
never the whole config. Paths, threads and memory belong to rules and profiles.
"""

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nphm_core.errors import ConfigError


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TemplateConfig(Section):
    """Which head model is the template."""

    source: str = Field("embedded", description="`embedded`, or the path of a model in FLAME's layout or of GNM")


class IngestConfig(Section):
    """Reading a scan as delivered."""

    min_triangles: int = Field(500, description="fewer triangles in the main component are no head scan")
    component_share: float = Field(0.05, description="components with less than this share of the area are dropped")
    max_landmark_distance_mm: float = Field(5.0, gt=0, description="landmarks of a file may lie this far off the scan")


class RenderConfig(Section):
    """Finding the face and rendering it."""

    image_pixels: int = Field(768, ge=128, description="edge of the square frontal image")
    fov_degrees: float = Field(20.0, gt=1, lt=90, description="vertical field of view of the camera")
    backend: Literal["auto", "egl", "osmesa", "raycast"] = Field("auto", description="how pictures are made")
    min_confidence: float = Field(0.5, gt=0, lt=1, description="MediaPipe's confidence for a face; lower finds junk")


class LandmarksConfig(Section):
    """2D landmarks in several views."""

    min_confidence: float = Field(0.5, gt=0, lt=1, description="MediaPipe's confidence for a face; lower finds junk")
    max_spread_px: float = Field(12.0, gt=0, description="median spread over the views above which no scan is trusted")


class BackprojectConfig(Section):
    """From pictures to points on the scan."""

    max_jump_mm: float = Field(6.0, gt=0, description="depth jump around a ray that rejects its hit")
    max_spread_mm: float = Field(6.0, gt=0, description="spread of a landmark over the views that rejects it")


class FlameFitConfig(Section):
    """Fit of the linear head model."""

    n_identity: int = Field(100, ge=1, description="identity components used, at most")
    n_expression: int = Field(100, ge=0, description="expression components used, at most")
    n_iterations: int = Field(28, ge=1, description="Levenberg-Marquardt iterations in all")
    landmark_weight: float = Field(12.0, ge=0, description="weight of the landmark term")
    identity_prior: float = Field(1.0, ge=0, description="weight of the squared identity coefficients")
    expression_prior: float = Field(10.0, ge=0, description="weight of the squared expression coefficients")
    robust_mm: float = Field(2.0, gt=0, description="scale of the Geman-McClure kernel at the end")
    max_distance_mm: float = Field(10.0, gt=0, description="correspondences farther away are rejected at the end")
    min_matched_share: float = Field(0.35, ge=0, le=1, description="less of the face on the scan is a failed fit")
    share_identity: bool = Field(True, description="take the identity of the subject's neutral for its other scans")


class SubdivideConfig(Section):
    """Refinement of the template's triangles."""

    levels: int = Field(2, ge=0, le=3, description="times every triangle is cut in four")
    region: Literal["head", "face"] = Field("head", description="what is refined: all, or the face region only")


class ArapConfig(Section):
    """As-rigid-as-possible fine registration."""

    stiffness_start: float = Field(3.0, gt=0, description="weight of the rigidity term at the coarsest level's start")
    stiffness_end: float = Field(0.1, gt=0, description="weight of the rigidity term at the end")
    robust_start_mm: float = Field(5.0, gt=0, description="scale of the Welsch kernel at the start")
    robust_end_mm: float = Field(0.5, gt=0, description="scale of the Welsch kernel at the end")
    max_distance_mm: float = Field(10.0, gt=0, description="correspondences farther away are rejected")
    max_normal_angle_degrees: float = Field(60.0, gt=0, lt=90, description="normals that differ more are rejected")
    iterations: tuple[int, ...] = Field((4, 4, 2), description="outer iterations, coarse level first")


class WatertightConfig(Section):
    """Checks of scan and registration, and the closed scan."""

    max_hole_edges: int = Field(5000, ge=3, description="boundary loops with more edges stay open")
    repair_timeout_s: float = Field(120.0, gt=0, description="a closing that takes more CPU seconds is given up")
    poisson_depth: int = Field(8, ge=5, le=11, description="octree depth of the surface through a point cloud")
    max_fill_spacings: float = Field(3.0, gt=0, description="a cloud's surface farther from points than this is a fill")


class SampleSdfConfig(Section):
    """Training samples of the signed distance."""

    n_surface: int = Field(200_000, ge=0, description="points on the scan's surface")
    n_near: int = Field(200_000, ge=0, description="points near the surface, with their signed distance")
    n_far: int = Field(50_000, ge=0, description="points in the ball around the head, with their signed distance")
    near_std_mm: tuple[float, ...] = Field((1.0, 5.0), description="standard deviations of the near points' offset")
    far_radius_mm: float = Field(200.0, gt=0, description="radius of the far points' ball, around the canonical origin")
    face_distance_mm: float = Field(50.0, gt=0, description="surface this near to the face region counts as face")
    min_sign_margin: float = Field(0.2, ge=0, le=0.5, description="winding numbers this near to one half: no trust")


class SampleDeltaConfig(Section):
    """Training samples of the expression deformation."""

    region: Literal["face", "head"] = Field("head", description="vertices that are stored")


class EvaluateConfig(Section):
    """Measures and verdict of a scan."""

    max_distance_mm: float = Field(10.0, gt=0, description="what is farther from the scan counts as not scanned")
    max_normal_angle_degrees: float = Field(60.0, gt=0, lt=90, description="normals that differ more do not match")
    max_median_mm: float = Field(0.2, gt=0, description="median distance on the face above which it is suspicious")
    max_p95_mm: float = Field(1.0, gt=0, description="95th percentile on the face above which it is suspicious")
    failed_median_mm: float = Field(1.0, gt=0, description="median distance on the face above which it has failed")
    min_matched_share: float = Field(0.7, ge=0, le=1, description="less of the face on the scan is suspicious")
    failed_matched_share: float = Field(0.3, ge=0, le=1, description="less of the face on the scan has failed")
    min_covered_share: float = Field(0.9, ge=0, le=1, description="less of the scan's face covered is suspicious")
    max_folded_faces: int = Field(20, ge=0, description="more folded triangles on the face are suspicious")
    max_crossed_vertices: int = Field(50, ge=0, description="more crossed vertices of lips and lids are suspicious")
    max_landmark_mm: float = Field(5.0, gt=0, description="median landmark residual above which it is suspicious")
    picture_pixels: int = Field(384, ge=64, description="height of one tile of the quality picture")
    colour_max_mm: float = Field(0.5, gt=0, description="distance at the end of the colour bar")
    view_vertices: int = Field(8000, ge=0, le=65535, description="of a scan in the 3D view; 0 leaves it out")


class IdentityModelConfig(Section):
    """Architecture of the identity field (NPHM, CVPR 2023)."""

    kind: Literal["ensemble", "global"] = Field(
        "ensemble", description="`ensemble` of local networks around anchors (NPHM), or one `global` network (NPM)"
    )
    n_global: int = Field(64, ge=1, description="length of the global identity code")
    n_local: int = Field(32, ge=1, description="length of each anchor's local code")
    n_hidden: int = Field(200, ge=8, description="width of the local networks")
    n_hidden_anchors: int = Field(256, ge=8, description="width of the network that predicts the anchors")
    n_layers: int = Field(5, ge=3, description="linear layers of the local networks")
    share_mirrored: bool = Field(True, description="left and right of a pair of anchors share weights")
    blend: Literal["softmax", "released"] = Field(
        "softmax", description="`softmax` over the anchors and a background, or the `released` code's normaliser"
    )
    blend_variance: float = Field(0.01, gt=0, description="squared width of an anchor's Gaussian, canonical units")
    background_distance_sq: float = Field(0.2, gt=0, description="squared distance at which the background takes over")
    n_nearest: int = Field(0, ge=0, le=39, description="only so many anchors are evaluated at a point; 0 for all")
    min_weight: float = Field(1e-3, ge=0, lt=0.1, description="members with less blend weight are not evaluated")
    kernel: Literal["auto", "fused", "plain"] = Field(
        "auto",
        description="`auto`: fused kernels on a GPU, products in half precision; `plain`: their reference everywhere; "
        "`fused`: kernels also where they are interpreted, for tests",
    )
    n_global_hidden: int = Field(1024, ge=8, description="width of the `global` network")
    n_global_layers: int = Field(9, ge=3, description="linear layers of the `global` network")
    n_global_code: int = Field(512, ge=1, description="length of the `global` network's code")


class ExpressionModelConfig(Section):
    """Architecture of the expression field."""

    direction: Literal["forward", "backward"] = Field(
        "forward", description="`forward` from canonical to posed space, or `backward` (MonoNPHM)"
    )
    n_expression: int = Field(200, ge=1, description="length of the expression code")
    n_condition: int = Field(32, ge=1, description="length of the compressed identity")
    n_ambient: int = Field(2, ge=0, description="ambient dimensions of the backward variant")
    n_hidden: int = Field(512, ge=8, description="width of the network")
    n_layers: int = Field(7, ge=3, description="linear layers of the network")
    condition_noise: float = Field(0.005, ge=0, description="noise on the compressed identity in training")
    kernel: Literal["auto", "fused", "plain"] = Field(
        "auto",
        description="how a GPU evaluates the network in training, as for the identity field; `auto` takes the kernels "
        "on an H100 and later cards",
    )


class OptimiserConfig(Section):
    """AdamW on weights, sparse Adam on codes."""

    learning_rate: float = Field(5e-4, gt=0, description="of the weights")
    code_learning_rate: float = Field(1e-3, gt=0, description="of the codes")
    weight_decay: float = Field(0.01, ge=0, description="of the weights")
    decay_every: int = Field(40_000, ge=1, description="steps after which both rates are multiplied by decay_factor")
    decay_factor: float = Field(0.5, gt=0, le=1, description="see decay_every")
    clip_norm: float = Field(0.1, gt=0, description="largest norm of the gradient, of weights and codes each")
    max_code_norm: float = Field(1.0, gt=0, description="longer codes are cut to this length")


class TrainIdentityConfig(Section):
    """Training of the identity field, the first stage."""

    model: IdentityModelConfig = IdentityModelConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    n_steps: int = Field(120_000, ge=1, description="steps of the optimiser")
    batch_subjects: int = Field(32, ge=1, description="subjects in a step")
    n_face: int = Field(750, ge=1, description="surface points of the face, a subject and step")
    n_rest: int = Field(50, ge=0, description="surface points elsewhere, a subject and step")
    n_near: int = Field(800, ge=0, description="points near the surface, a subject and step")
    n_far: int = Field(93, ge=0, description="points in the ball around the head, a subject and step")
    weight_surface: float = Field(2.0, ge=0, description="of |sdf| on the surface")
    weight_normals: float = Field(0.3, ge=0, description="of the gradient's distance from the normal")
    weight_eikonal: float = Field(0.1, ge=0, description="of the gradient's distance from length one")
    weight_space: float = Field(0.01, ge=0, description="of exp(-10 |sdf|) at far points")
    weight_distance: float = Field(0.0, ge=0, description="of |sdf - stored sdf| at trusted near and far points")
    weight_codes: float = Field(0.01, ge=0, description="of the squared length of the codes")
    weight_anchors: float = Field(7.5, ge=0, description="of the anchors' squared distance from the registered ones")
    weight_symmetry: float = Field(0.01, ge=0, description="of the distance between local codes of a pair")
    code_spread: float = Field(0.1, gt=0, description="norm of the codes at the start")
    validation_subjects: tuple[str, ...] = Field((), description="subjects whose codes are found with frozen weights")
    precision: Literal["float32", "tf32", "bfloat16"] = Field("float32", description="of matrix products on a GPU")
    captured: bool = Field(True, description="do steps as CUDA graphs on GPUs, where the kernels run")
    checkpoint_every: int = Field(2_000, ge=1, description="steps between two states to resume from")
    log_every: int = Field(50, ge=1, description="steps between two lines of the log")


def npm_identity(settings: TrainIdentityConfig) -> TrainIdentityConfig:
    """Give the settings of the baseline NPM as released: one network, no anchors or pairs, a weaker pull on codes."""
    changes = {"weight_codes": 0.002, "weight_anchors": 0.0, "weight_symmetry": 0.0}
    return settings.model_copy(update=changes | {"model": settings.model.model_copy(update={"kind": "global"})})


class TrainExpressionConfig(Section):
    """Training of the expression field with the identity frozen, the second stage."""

    model: ExpressionModelConfig = ExpressionModelConfig()
    optimiser: OptimiserConfig = OptimiserConfig(
        learning_rate=1e-4, code_learning_rate=5e-4, weight_decay=5e-4, decay_every=92_000, clip_norm=0.025
    )
    n_steps: int = Field(385_000, ge=1, description="steps of the optimiser")
    batch_scans: int = Field(32, ge=1, description="scans in a step")
    n_pairs: int = Field(1000, ge=1, description="pairs of corresponding points, a scan and step")
    n_space: int = Field(100, ge=0, description="points in space without a correspondence, a scan and step")
    weight_pairs: float = Field(100.0, ge=0, description="of the squared distance of corresponding points")
    weight_codes: float = Field(5e-5, ge=0, description="of the squared length of the codes")
    weight_zero: float = Field(5e-5, ge=0, description="of the squared deformation of points in space")
    code_spread: float = Field(0.14, gt=0, description="norm of the codes at the start")
    joint_steps: int = Field(0, ge=0, description="further steps that train both fields and all codes together")
    precision: Literal["float32", "tf32", "bfloat16"] = Field("float32", description="of matrix products on a GPU")
    captured: bool = Field(True, description="do steps as CUDA graphs on GPUs, where the kernels run")
    checkpoint_every: int = Field(5_000, ge=1, description="steps between two states to resume from")
    log_every: int = Field(100, ge=1, description="steps between two lines of the log")


class TrainBaselinesConfig(Section):
    """Baselines trained on the same subjects: PCA of the registered meshes, and NPM (one global DeepSDF)."""

    pca_identity: int = Field(100, ge=1, description="identity components of the PCA, at most")
    pca_expression: int = Field(50, ge=0, description="expression components of the PCA, at most")


class FitConfig(Section):
    """Codes and pose of a trained model from observed points."""

    n_steps: int = Field(30, ge=0, description="steps with all numbers of the codes free; with all points a third")
    n_points: int = Field(2500, ge=1, description="observed points that are used, a scan")
    n_starts: int = Field(4, ge=1, description="poses that the search hands on to be fitted coarsely, a scan")
    n_independent: float = Field(400.0, gt=0, description="independent measurements in a scan's points, at most")
    min_spread_mm: float = Field(0.1, gt=0, description="points are trusted to be this exact at best")
    weight_normals: float = Field(0.3, ge=0, description="of the normals' disagreement, where points have normals")
    weight_landmarks: float = Field(1.0, ge=0, description="of the anchors' squared distance, where some are known")
    weight_identity: float = Field(1.0, ge=0, description="of the identity code's squared Mahalanobis distance")
    weight_expression: float = Field(1.0, ge=0, description="of the expression code's squared Mahalanobis distance")
    weight_symmetry: float = Field(0.0, ge=0, description="of the squared distance between local codes of a pair")
    robust_mm: float = Field(4.0, gt=0, description="scale of the Geman-McClure kernel at the end")
    scale_std: float = Field(0.02, gt=0, description="relative deviation of the size where the scan's unit is known")
    root_steps: int = Field(12, ge=1, description="iterations of the root finder, at most")
    root_tolerance_mm: float = Field(0.01, gt=0, description="a root this near counts as found")
    resolution: int = Field(256, ge=16, le=1024, description="cells along the longest side of the mesh's grid")


class EvaluateModelConfig(Section):
    """Measures of fitted heads against their scans."""

    n_points: int = Field(250_000, ge=100, description="points compared, each way")
    thresholds_mm: tuple[float, ...] = Field((1.0, 5.0), description="of the F-scores")
    n_views: int = Field(10, ge=1, description="rendered views of the released protocol")
    view_height: int = Field(1280, ge=64, description="rows of a view; columns are three quarters of it")
    throat_margin_mm: float = Field(5.0, ge=0, description="measured is what lies this far above the throat's cut")
    keep_hidden: bool = Field(False, description="the protocol surface counts what no view sees, as a mouth's inside")


class Config(Section):
    """All that a user may change."""

    scans: str = Field("demo/scans.tsv", description="scan table, or folder in the NPHM data-set layout")
    verdicts: str = Field("", description="verdicts downloaded from the gallery: rejected scans are left out")
    results: str = Field("results", description="folder for everything that is made")
    cache: str = Field(".cache", description="folder for what depends on the template only")
    seed: int = Field(0, ge=0, description="seed of everything random")
    canonical: Literal["open", "closed"] = Field("open", description="which neutral defines canonical space")
    scans_per_job: int = Field(
        0,
        ge=0,
        description="scans of a subject that a job works on; 0: one up to 30 scans, 5 up to 200, 25 in larger tables",
    )
    models: tuple[Literal["nphm", "npm", "pca"], ...] = Field(
        ("nphm",), description="what the target `model` trains: `nphm`, and the baselines `npm` and `pca`"
    )
    held_out: tuple[str, ...] = Field((), description="subjects kept from training; `model` fits and measures them")
    initial_models: str = Field(
        "",
        description="folder of earlier models, a copy of `results/models`: training goes on from them",
    )
    max_failed_share: float = Field(1.0, ge=0, le=1, description="a run with more failed scans than this is an error")
    stop_failed_share: float = Field(0.8, ge=0, le=1, description="a run ends early where more than this share fails")
    stop_after_scans: int = Field(20, ge=1, description="scans that are looked at before a run may end early")
    stage_timeout_s: float = Field(
        1800.0, gt=0, description="a stage that takes longer for one scan is given up, and the scan has failed"
    )
    template: TemplateConfig = TemplateConfig()
    ingest: IngestConfig = IngestConfig()
    render: RenderConfig = RenderConfig()
    landmarks: LandmarksConfig = LandmarksConfig()
    backproject: BackprojectConfig = BackprojectConfig()
    flame_fit: FlameFitConfig = FlameFitConfig()
    subdivide: SubdivideConfig = SubdivideConfig()
    arap: ArapConfig = ArapConfig()
    watertight: WatertightConfig = WatertightConfig()
    sample_sdf: SampleSdfConfig = SampleSdfConfig()
    sample_delta: SampleDeltaConfig = SampleDeltaConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    train_identity: TrainIdentityConfig = TrainIdentityConfig()
    train_expression: TrainExpressionConfig = TrainExpressionConfig()
    train_baselines: TrainBaselinesConfig = TrainBaselinesConfig()
    fit: FitConfig = FitConfig()
    evaluate_model: EvaluateModelConfig = EvaluateModelConfig()


def read_section(model: type[Section], data: dict[str, Any], where: str = "") -> Any:
    """Check a mapping against a section; ConfigError names the key, what was expected and the nearest known key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(model, item, where) for item in error.errors())) from None


def _explain(model: type[BaseModel], item: Any, where: str) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(([where] if where else []) + path)
    if item["type"] != "extra_forbidden":
        return f"the setting {name} is {item['input']!r}: {item['msg']}. Change it in the config"
    known: Any = model
    for part in path[:-1]:
        known = known.model_fields[part].annotation
    near = difflib.get_close_matches(path[-1], known.model_fields, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known.model_fields)}"
    return f"the setting {name} is unknown; {hint} Correct or remove it in the config"
