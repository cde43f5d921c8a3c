"""Writing the report of a plan: a function of its folder, however often the runs were stopped."""

import json
from pathlib import Path

import jax
import jaxlib

import dynet_jax
from dynet_jax.analysis.table import Table
from dynet_jax.config.relations import chosen_optimizer_arguments
from dynet_jax.machine import machine, source_digest
from dynet_jax.reproduce import measured_sections, sections
from dynet_jax.reproduce.document import FIGURES, Document, write_html, write_markdown
from dynet_jax.reproduce.plan import Plan, read_json
from dynet_jax.reproduce.results import Results
from dynet_jax.workdir.files import write_whole

DEVICES_FILE, FAILURES_FILE, UNMEASURED_FILE = "devices.json", "failures.json", "not_measured.json"


def note_device(plan: Plan, device: str, workers: int, threads: int | None) -> None:
    """Records what runs of this command are trained on; the report lists all of these records.

    device: 'cpu', or an accelerator's name. This process must not ask JAX, which would take the accelerator's memory.
    """
    device = machine() if device == "cpu" else device
    each = f", each on {threads} core{'s' * (threads > 1)}" if threads else ""
    arrangement = f"{workers} run{'s' * (workers > 1)} at a time{each}"
    own = f"dynet_jax {dynet_jax.__version__} (source {source_digest()})"
    versions = f"{own}, jax {jax.__version__}, jaxlib {jaxlib.__version__}"
    noted = {"device": device, "arrangement": arrangement, "versions": versions}
    known = _devices(plan)
    if noted not in known:
        write_whole(plan.out / DEVICES_FILE, json.dumps([*known, noted], indent=1))


def note_failures(plan: Plan, failed: dict[Path, str]) -> None:
    """Records why runs are missing, until they are trained again."""
    _note_reasons(plan.out / FAILURES_FILE, failed)


def note_unmeasured(plan: Plan, failed: dict[Path, str]) -> None:
    """Records why measurements are missing, until they are made again."""
    _note_reasons(plan.out / UNMEASURED_FILE, failed)


def _note_reasons(file: Path, failed: dict[Path, str]) -> None:
    write_whole(file, json.dumps({path.name: why for path, why in failed.items()}, indent=1))


def write_report(plan: Plan) -> list[Path]:
    """Writes report.html, report.md and figures/ into the plan's folder. Returns the first two."""
    folder = plan.out / FIGURES
    folder.mkdir(exist_ok=True)
    results, devices = Results(plan), _devices(plan)
    device = "; ".join(dict.fromkeys(noted["device"] for noted in devices)) or "device unknown"
    arrangement = " or ".join(dict.fromkeys(noted["arrangement"] for noted in devices)) or "not known"
    config = plan.common
    stamp = (
        f"{plan.dataset}, {config.data.image_size} px, {config.epochs:g} epochs, {len(plan.seeds)} seeds, "
        f"budget {plan.budget_name}; {device}."
    )
    parts = [
        sections.claims_section(results),
        *sections.experiment_sections(results, folder, stamp),
        sections.tradeoff_section(results, folder, stamp),
        measured_sections.correlation_section(plan, folder, stamp),
        measured_sections.coefficient_section(plan, folder, stamp),
        measured_sections.rank_section(plan, folder, stamp),
        measured_sections.latency_section(plan, folder),
        sections.training_section(results, folder, stamp, arrangement),
    ]
    versions = "; ".join(dict.fromkeys(noted["versions"] for noted in devices))
    facts = _facts(plan, results, device, arrangement, versions)
    missing = _missing(plan, results)
    document = Document(
        f"DyNet's experiments on {plan.dataset}",
        [facts, *missing],
        [part for part in parts if part is not None],
    )
    files = [plan.out / "report.html", plan.out / "report.md"]
    write_html(document, files[0])
    write_markdown(document, files[1])
    return files


def _facts(plan: Plan, results: Results, device: str, arrangement: str, versions: str) -> Table:
    config, classes = plan.common, len(plan.class_names)
    runs = len(plan.arms) * len(plan.seeds)
    finished = sum(len(results.seeds(arm)) for arm in plan.arms)
    rows = [
        (
            "dataset",
            f"{plan.dataset}: {plan.train_images:,} training and {plan.test_images:,} test images, {classes} classes",
        ),
        (
            "images",
            f"{config.data.image_size} px, {config.data.crop}{', flipped at random' if config.data.flip else ''}",
        ),
        ("budget", f"{plan.budget_name}: {config.epochs:g} epochs = {plan.steps} steps of {config.batch_size} images"),
        (
            "recipe of all runs",
            f"{_optimizer(config)}, learning rate {config.learning_rate:g}, {config.schedule} decay, "
            f"{config.warmup_epochs:.2g} epochs of warm-up, weight decay {config.weight_decay:g}, label smoothing "
            f"{config.label_smoothing:g}, {config.dtype}{', stride 8' if config.model.small_input else ''}",
        ),
        ("runs", f"{len(plan.arms)} networks x {len(plan.seeds)} seeds; {finished} of {runs} finished"),
        ("errors", "top-1 on the whole test set after the last step; mean ± standard deviation over the seeds"),
        ("device", f"{device}; {arrangement}"),
        ("versions", versions),
        ("command", f"`{plan.command}`"),
    ]
    return Table(("what", "how"), rows)


def _optimizer(config) -> str:
    name = "SGD" if config.optimizer == "sgd" else config.optimizer
    return ", ".join([name, *(f"{key} {value}" for key, value in chosen_optimizer_arguments(config).items())])


def _missing(plan: Plan, results: Results) -> list[str]:
    failed, unmeasured = (_noted(plan, name, {}) for name in (FAILURES_FILE, UNMEASURED_FILE))
    names = {job.workdir.name for arm in plan.arms for job in plan.jobs(arm) if not job.is_finished}
    lines = [f"**Failed**: `{name}`: {reason}" for name, reason in failed.items() if name in names]
    few = [arm for arm in plan.arms if len(results.seeds(arm)) < len(plan.seeds)]
    waiting = ", ".join(f"{arm.name} ({len(results.seeds(arm))})" for arm in few)
    if waiting:
        lines.append(
            f"**Not complete**: of these networks fewer than {len(plan.seeds)} runs are finished: {waiting}. The "
            "command above resumes them."
        )
    return lines + [f"**Not measured**: `{name}`: {reason}" for name, reason in unmeasured.items()]


def _devices(plan: Plan) -> list[dict]:
    return _noted(plan, DEVICES_FILE, [])


def _noted(plan: Plan, name: str, otherwise):
    file = plan.out / name
    return read_json(file) if file.exists() else otherwise
